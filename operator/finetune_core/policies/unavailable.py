"""How long the attempts of a stage wait for a service that is unreachable, or that asks for a wait."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.job import FailureStatus
from finetune_api.spec import ResilienceSpec
from finetune_api.stage import StageError
from finetune_core.policies.pending import in_words
from finetune_core.times import from_text


def not_before(error: StageError, recorded: FailureStatus | None, now: datetime) -> datetime | None:
    """When the service that a stage has asked allows the next attempt; None if it asks for no wait.

    Args:
        error: The error of the attempt, which has just ended.
        recorded: The failure in the status, if an earlier reconcile has seen the same error.
        now: The time.
    """
    if recorded and recorded.retry_after:
        return from_text(recorded.retry_after)
    return now + timedelta(seconds=error.retry_after_seconds) if error.retry_after_seconds else None


def why_given_up(since: datetime, allowed: datetime | None, resilience: ResilienceSpec, now: datetime) -> str:
    """Why no other attempt follows, as a sentence; empty if one does.

    Args:
        since: Since when the service has not responded once.
        allowed: When it allows the next attempt.
        resilience: The limits of the job.
        now: The time.
    """
    ends = since + timedelta(seconds=resilience.pending_timeout_seconds)
    if now >= ends:
        return f"Not reached once within {in_words(now - since)} (resilience.pendingTimeoutSeconds)."
    if allowed and allowed > ends:
        return "That is later than resilience.pendingTimeoutSeconds allows."
    return ""
