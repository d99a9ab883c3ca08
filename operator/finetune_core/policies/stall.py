"""When a running stage counts as stalled."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import Stage, StageError
from finetune_core.runs import ObservedRun, RunState

GRACE = timedelta(seconds=10)
"""Time between SIGTERM and SIGKILL: a stalled process rarely handles SIGTERM."""


UNREACHABLE_AFTER = timedelta(minutes=2)
"""Time without a response of a ready worker after which the status says so."""


def stalls_at(run: ObservedRun, resilience: ResilienceSpec) -> datetime | None:
    """When the run counts as stalled unless it reports progress before; None if it does not run or is not polled.

    A worker that passes its readiness probe has made progress, also if the executor has not received it. All times are
    those of the executor: the clock of a worker may differ. Time before the polling began does not count, because a run
    may be hours old when the operator starts.
    """
    if run.state is not RunState.RUNNING or run.silent_since is None or run.ready:
        return None
    return run.silent_since + timedelta(seconds=resilience.stall_timeout_seconds)


def unreachable_at(run: ObservedRun) -> datetime | None:
    """When a healthy run counts as unreachable unless it responds before; None if it responds or is not healthy."""
    if run.state is not RunState.RUNNING or run.silent_since is None or run.answers or not run.ready:
        return None
    return run.silent_since + UNREACHABLE_AFTER


def unreachable(stage: Stage) -> str:
    """What a run does that is healthy but does not respond, as a sentence."""
    return (
        f"{stage} runs, but the operator cannot reach its pod, so its progress is unknown: allow connections from the "
        "operator to the port named metrics in the network policies of this namespace."
    )


def stalled(run: ObservedRun, resilience: ResilienceSpec) -> StageError:
    """The error of a stalled run."""
    doing = f" while {run.progress.activity}" if run.progress and run.progress.activity else ""
    return StageError(
        reason=Reason.STALLED,
        message=f"{run.id.stage} showed no progress for {resilience.stall_timeout_seconds} s{doing}: a process hangs, "
        "or cannot reach another rank or the storage. If such a pause is normal, raise resilience.stallTimeoutSeconds.",
        exit_code=ExitCode.INTERNAL,
    )
