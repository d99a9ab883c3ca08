"""Which ended runs are deleted, and when a finished job is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.stage import Stage
from finetune_core.runs import ObservedRun, RunId
from finetune_core.times import from_text

_ATTEMPTS_KEPT = 3
"""Attempts of each stage whose Jobs, and so logs, are kept."""


def obsolete(status: FineTuneJobStatus, runs: Iterable[ObservedRun]) -> list[RunId]:
    """Ended runs to delete: those of other revisions, and all but the latest few of each stage."""
    # A later revision that is not in the history may have been started before a crash.
    revision, others = status.revision, {record.revision for record in status.history}
    ended = [run.id for run in runs if not run.alive]
    newest: dict[Stage, int] = {}
    for id_ in ended:
        if id_.revision == revision:
            newest[id_.stage] = max(newest.get(id_.stage, 0), id_.attempt)
    return [
        id_
        for id_ in ended
        if id_.revision < revision
        or id_.revision in others
        or id_.attempt <= newest.get(id_.stage, id_.attempt) - _ATTEMPTS_KEPT
    ]


def expires_at(job: FineTuneJob) -> datetime | None:
    """When a finished job is deleted; None if it is kept."""
    ttl, ended = job.spec.resilience.ttl_seconds_after_finished, job.status.completion_time
    return None if ttl is None or ended is None else from_text(ended) + timedelta(seconds=ttl)
