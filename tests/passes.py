"""The passes of the plan over a job, for tests."""

from __future__ import annotations

from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, Plan
from tests.builders import a_job, a_run, after, succeeded


def pass_(job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 10) -> tuple[FineTuneJob, Plan]:
    made = plan(job, Observed(runs, stop_requested=stop), after(seconds=at))
    return job.model_copy(update={"status": made.status}), made


def in_training(**spec: Any) -> FineTuneJob:
    """A job whose train stage has been running since noon."""
    job, _ = pass_(a_job(**spec), succeeded(Stage.PREPARE), at=0)
    job, _ = pass_(job, a_run(Stage.TRAIN), at=0)
    return job


def started(made: Plan) -> list[tuple[Stage, int]]:
    return [(run.id.stage, run.id.attempt) for run in made.start]
