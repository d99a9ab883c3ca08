"""When a running stage is taken for hung."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_operator.runs import ObservedRun, RunState

GRACE = timedelta(seconds=10)
"""Time between the request to stop and the kill: what hangs seldom hears."""


def stalls_at(run: ObservedRun, resilience: ResilienceSpec) -> datetime | None:
    """When the run counts as stalled, unless it shows life before; None while it does not compute."""
    if run.state is not RunState.RUNNING or run.started_at is None:
        return None
    alive_at = run.started_at
    progress = run.progress
    if progress and (progress.stage, progress.attempt) == (run.id.stage, run.id.attempt):
        alive_at = max(alive_at, datetime.fromtimestamp(progress.updated_at, UTC))
    return alive_at + timedelta(seconds=resilience.stall_timeout_seconds)


def stalled(run: ObservedRun, resilience: ResilienceSpec) -> StageError:
    """The error of a run that hung."""
    doing = f" while {run.progress.activity}" if run.progress and run.progress.activity else ""
    return StageError(
        reason=Reason.STALLED,
        message=f"{run.id.stage} showed no progress for {resilience.stall_timeout_seconds} s{doing}; "
        "if that is normal, raise resilience.stallTimeoutSeconds.",
        exit_code=ExitCode.INTERNAL,
    )
