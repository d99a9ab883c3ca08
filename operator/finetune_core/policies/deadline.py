"""The active deadline of a job."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FineTuneJobStatus
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import Stage, StageError
from finetune_core.times import from_text

GRACE = timedelta(minutes=2)
"""Time for a last checkpoint."""


def deadline(status: FineTuneJobStatus, resilience: ResilienceSpec, now: datetime) -> datetime | None:
    """When the revision must have ended, counted from its start or from its last resume."""
    if resilience.active_deadline_seconds is None:
        return None
    began = status.resume_time or status.start_time
    return (from_text(began) if began else now) + timedelta(seconds=resilience.active_deadline_seconds)


def exceeded(stage: Stage, resilience: ResilienceSpec) -> StageError:
    """The error of a job that was in ``stage`` at its deadline."""
    return StageError(
        reason=Reason.DEADLINE_EXCEEDED,
        message="The job did not finish within resilience.activeDeadlineSeconds "
        f"({resilience.active_deadline_seconds} s); it was in stage {stage}. Raise the limit, or make the job smaller.",
        exit_code=ExitCode.INTERNAL,
    )
