"""How long a run may stay Pending."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_core.runs import PendingCause

_SHORT_TIMEOUT = timedelta(minutes=5)
"""For causes that rarely resolve without intervention: a registry recovers, a missing Secret is applied."""

_QUEUED = (Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED)
"""Causes that resolve when other pods end or a node is added: the run waits, as in a queue."""


_INCOMPLETE = timedelta(minutes=5)
"""Time for which the workers of a gang wait for others that have no node."""


def is_same_wait(before: Reason | None, cause: PendingCause) -> bool:
    """Whether a run that was Pending for the reason ``before`` still waits for the same.

    A new attempt, which has no reason yet, continues to wait in the queue.
    """
    return before is cause.reason or (before in (None, *_QUEUED) and cause.reason in _QUEUED)


def times_out_at(cause: PendingCause, since: datetime, resilience: ResilienceSpec) -> datetime:
    """When a run that is Pending ``since`` a time because of ``cause`` is stopped and its job fails."""
    if cause.hopeless:
        return since
    limit = timedelta(seconds=resilience.pending_timeout_seconds)
    return since + (limit if cause.reason in _QUEUED else min(limit, _SHORT_TIMEOUT))


def timed_out(cause: PendingCause, since: datetime, now: datetime) -> StageError:
    """The error of a run that stayed Pending for too long."""
    waited = "" if cause.hopeless else f" Not started within {in_words(now - since)}."
    return StageError(reason=cause.reason, message=f"{cause.message}{waited}", exit_code=ExitCode.INTERNAL)


def releases_at(incomplete_since: datetime) -> datetime:
    """When the workers of an incomplete gang release their nodes, so that two gangs do not wait for each other."""
    return incomplete_since + _INCOMPLETE


def released(cause: PendingCause) -> StageError:
    """The error of an incomplete gang."""
    return StageError(
        reason=Reason.INCOMPLETE_GANG,
        message=f"{cause.message} The other workers waited for {in_words(_INCOMPLETE)} and released their nodes for "
        "other jobs; all workers start again in a few minutes.",
        exit_code=ExitCode.INTERNAL,
    )


def in_words(time: timedelta) -> str:
    """``5 minutes``, or ``24 hours``."""
    minutes = max(int(time.total_seconds()) // 60, 1)
    if minutes >= 120:
        return f"{minutes // 60} hours"
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
