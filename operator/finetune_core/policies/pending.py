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


def times_out_at(cause: PendingCause, resilience: ResilienceSpec) -> datetime:
    """When a run that is Pending because of ``cause`` is stopped and its job fails."""
    limit = timedelta(seconds=resilience.pending_timeout_seconds)
    return cause.since + (limit if cause.reason in _QUEUED else min(limit, _SHORT_TIMEOUT))


def timed_out(cause: PendingCause, now: datetime) -> StageError:
    """The error of a run that stayed Pending for too long."""
    minutes = max(int((now - cause.since).total_seconds()) // 60, 1)
    waited = f"{minutes} minute{'' if minutes == 1 else 's'}"
    if minutes >= 120:
        waited = f"{minutes // 60} hours"
    return StageError(
        reason=cause.reason, message=f"{cause.message} Not started within {waited}.", exit_code=ExitCode.INTERNAL
    )
