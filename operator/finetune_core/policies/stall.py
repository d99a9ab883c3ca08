"""When a running stage counts as stalled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_core.runs import ObservedRun, RunState

GRACE = timedelta(seconds=10)
"""Time between SIGTERM and SIGKILL: a stalled process rarely handles SIGTERM."""


def stalls_at(run: ObservedRun, resilience: ResilienceSpec) -> datetime | None:
    """When the run counts as stalled unless it reports progress before; None if it does not run or is not polled.

    Time before the polling began does not count: when the operator starts, a run may be hours old.
    """
    if run.state is not RunState.RUNNING or run.started_at is None:
        return None
    progress = run.progress
    if progress and (progress.stage, progress.attempt) == (run.id.stage, run.id.attempt):
        reported_at = datetime.fromtimestamp(progress.updated_at, UTC)
    elif run.polled_since:
        reported_at = run.polled_since
    else:
        return None
    active_at = max(run.started_at, reported_at)
    return active_at + timedelta(seconds=resilience.stall_timeout_seconds)


def stalled(run: ObservedRun, resilience: ResilienceSpec) -> StageError:
    """The error of a stalled run."""
    doing = f" while {run.progress.activity}" if run.progress and run.progress.activity else ""
    return StageError(
        reason=Reason.STALLED,
        message=f"{run.id.stage} showed no progress for {resilience.stall_timeout_seconds} s{doing}: a process hangs, "
        "or cannot reach another rank or the storage. If such a pause is normal, raise resilience.stallTimeoutSeconds.",
        exit_code=ExitCode.INTERNAL,
    )
