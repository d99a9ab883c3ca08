"""Counts in the metrics how attempts of stages ended, and how long they were pending."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from finetune_api.job import FineTuneJobStatus, StageState
from finetune_core.runs import RunId
from finetune_kube.objects import ChildJob
from finetune_operator.metrics import Metrics


def count_outcomes(
    metrics: Metrics,
    before: FineTuneJobStatus,
    after: FineTuneJobStatus,
    runs: Mapping[RunId, ChildJob],
    now: datetime,
) -> None:
    """Count the changes between two statuses of one job."""
    known = {stage.name: stage for stage in before.stages} if before.revision == after.revision else {}
    for stage in after.stages:
        was = known[stage.name].state if stage.name in known else StageState.PENDING
        if stage.state is was:
            continue
        if stage.state is StageState.SUCCEEDED:
            metrics.stage_outcomes.labels(stage.name, "Succeeded").inc()
        elif stage.state is StageState.RUNNING:
            run = runs.get(RunId(after.revision, stage.name, stage.attempt))
            if run:
                metrics.waiting_seconds.labels(stage.name).observe((now - run.created_at).total_seconds())
    failure = after.failure
    if failure and failure != before.failure:
        metrics.stage_outcomes.labels(failure.stage, failure.reason).inc()
