"""Whether a failed stage is tried again, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from finetune_api.failures import Reason

_FIRST_DELAY = timedelta(seconds=2)
_LONGEST_DELAY = timedelta(minutes=5)
_DELAY_AFTER_MANY_STOPS = timedelta(seconds=10)


class _Retry(Enum):
    FREE = "does not use up maxRestarts"
    COUNTED = "uses up maxRestarts"
    NEVER = "somebody must act first"


_RETRY_OF = {
    Reason.UNAVAILABLE: _Retry.FREE,
    Reason.STOPPED: _Retry.FREE,
    # On another node they may be there; where the image is without CUDA, they never will.
    Reason.GPU_UNAVAILABLE: _Retry.COUNTED,
    Reason.INTERNAL_ERROR: _Retry.COUNTED,
    Reason.KILLED: _Retry.COUNTED,
    Reason.STALLED: _Retry.COUNTED,
    Reason.BAD_CONFIGURATION: _Retry.NEVER,
    Reason.BAD_DATA: _Retry.NEVER,
    Reason.NOT_FOUND: _Retry.NEVER,
    Reason.DIVERGED: _Retry.NEVER,
    Reason.PERMISSION_DENIED: _Retry.NEVER,
    Reason.OUT_OF_MEMORY: _Retry.NEVER,
    Reason.DISK_FULL: _Retry.NEVER,
    Reason.DEADLINE_EXCEEDED: _Retry.NEVER,
    Reason.GATE_FAILED: _Retry.NEVER,
    Reason.REVISION_TAKEN: _Retry.NEVER,
    Reason.UNSCHEDULABLE: _Retry.NEVER,
    Reason.QUOTA_EXCEEDED: _Retry.NEVER,
    Reason.IMAGE_UNAVAILABLE: _Retry.NEVER,
    Reason.SETUP_FAILED: _Retry.NEVER,
    Reason.FORBIDDEN: _Retry.NEVER,
}


@dataclass(frozen=True)
class Decision:
    """What follows a failure."""

    retried: bool
    counted: bool
    exhausted: bool = False
    """It would be retried, had there not been maxRestarts restarts already."""


def decide(reason: Reason, disrupted: bool, restarts: int, max_restarts: int) -> Decision:
    """What follows a failure for ``reason`` after ``restarts`` counted ones."""
    retry = _RETRY_OF[reason]
    if retry is _Retry.NEVER:
        return Decision(retried=False, counted=False)
    if retry is _Retry.FREE or disrupted:
        return Decision(retried=True, counted=False)
    if restarts >= max_restarts:
        return Decision(retried=False, counted=False, exhausted=True)
    return Decision(retried=True, counted=True)


def delay(reason: Reason | None, attempt: int, restarts: int) -> timedelta:
    """How long after the end of ``attempt`` the next one starts: 2 s, 4 s, 8 s … 5 min.

    A stop, which is nobody's failure, is followed at once; a little later when it comes again and again.
    """
    if reason is None or reason is Reason.STOPPED:
        return timedelta(0) if attempt <= 3 else _DELAY_AFTER_MANY_STOPS
    exponent = attempt if reason is Reason.UNAVAILABLE else restarts
    doublings = min(max(exponent - 1, 0), 20)
    return min(_FIRST_DELAY * (1 << doublings), _LONGEST_DELAY)
