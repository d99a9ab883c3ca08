"""Whether and when a failed stage is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_api.failures import Reason
from finetune_api.tables.reasons import Retry

_FIRST_DELAY = timedelta(seconds=2)
_LONGEST_DELAY = timedelta(minutes=5)
_DELAY_AFTER_MANY_STOPS = timedelta(seconds=10)
_SHORTEST_DELAY_OF_GANG = timedelta(minutes=1)


@dataclass(frozen=True)
class Decision:
    """Whether a failure is retried."""

    retried: bool
    counted: bool
    exhausted: bool = False
    """Not retried only because maxRestarts restarts are used up."""


def decide(reason: Reason, disrupted: bool, restarts: int, max_restarts: int) -> Decision:
    """Whether a failure for ``reason`` is retried after ``restarts`` counted restarts."""
    retry = reason.row.retry
    if retry is Retry.NEVER:
        return Decision(retried=False, counted=False)
    if retry is Retry.FREE or disrupted:
        return Decision(retried=True, counted=False)
    if restarts >= max_restarts:
        return Decision(retried=False, counted=False, exhausted=True)
    return Decision(retried=True, counted=True)


def delay(reason: Reason, attempt: int, restarts: int, chance: float) -> timedelta:
    """Back-off after the end of ``attempt``: 2 s, 4 s, 8 s … 5 min.

    After a stop the next attempt starts at once; after many stops a little later. Gangs that have released their nodes
    for each other start again at different times: ``chance`` is a random number between 0 and 1.
    """
    if reason is Reason.STOPPED:
        return timedelta(0) if attempt <= 3 else _DELAY_AFTER_MANY_STOPS
    if reason is Reason.INCOMPLETE_GANG:
        return _SHORTEST_DELAY_OF_GANG + chance * (_LONGEST_DELAY - _SHORTEST_DELAY_OF_GANG)
    exponent = attempt if reason is Reason.UNAVAILABLE else restarts
    doublings = min(max(exponent - 1, 0), 20)
    return min(_FIRST_DELAY * (1 << doublings), _LONGEST_DELAY)
