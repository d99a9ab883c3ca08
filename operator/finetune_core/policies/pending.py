"""When a run that does not get to compute is given up."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.failures import ExitCode, Reason
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_core.runs import Trouble

_PATIENCE = timedelta(minutes=5)
"""For what seldom passes by itself: time for a registry to come back, or for a Secret to be applied after the job."""

_MAY_TAKE_LONG = (Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED)
"""Somebody else's pods end, or a node is added: that is waiting in a queue."""


def gives_up_at(trouble: Trouble, resilience: ResilienceSpec) -> datetime:
    """When a run in ``trouble`` is ended and its job fails."""
    limit = timedelta(seconds=resilience.pending_timeout_seconds)
    return trouble.since + (limit if trouble.reason in _MAY_TAKE_LONG else min(limit, _PATIENCE))


def given_up(trouble: Trouble, now: datetime) -> StageError:
    """The error of a run that never got to compute."""
    minutes = max(int((now - trouble.since).total_seconds()) // 60, 1)
    waited = f"{minutes} minute{'' if minutes == 1 else 's'}"
    if minutes >= 120:
        waited = f"{minutes // 60} hours"
    return StageError(
        reason=trouble.reason, message=f"{trouble.message} Given up after {waited}.", exit_code=ExitCode.INTERNAL
    )
