"""When a running stage is taken for hung."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_core.runs import ObservedRun, RunState

GRACE = timedelta(seconds=10)
"""Time between the request to stop and the kill: what hangs seldom hears."""


def stalls_at(run: ObservedRun, resilience: ResilienceSpec) -> datetime | None:
    """When the run counts as stalled, unless it shows life before; None while it does not compute, or nobody listens.

    Who has just begun to listen has not heard silence: an operator that starts finds trainings that are hours old.
    """
    if run.state is not RunState.RUNNING or run.started_at is None:
        return None
    progress = run.progress
    if progress and (progress.stage, progress.attempt) == (run.id.stage, run.id.attempt):
        heard_at = datetime.fromtimestamp(progress.updated_at, UTC)
    elif run.asked_since:
        heard_at = run.asked_since
    else:
        return None
    alive_at = max(run.started_at, heard_at)
    return alive_at + timedelta(seconds=resilience.stall_timeout_seconds)


def stalled(run: ObservedRun, resilience: ResilienceSpec) -> StageError:
    """The error of a run that hung."""
    doing = f" while {run.progress.activity}" if run.progress and run.progress.activity else ""
    return StageError(
        reason=Reason.STALLED,
        message=f"{run.id.stage} showed no progress for {resilience.stall_timeout_seconds} s{doing}: a process hangs, "
        "or does not reach the others or the storage; if such a pause is normal, raise resilience.stallTimeoutSeconds.",
        exit_code=ExitCode.INTERNAL,
    )
