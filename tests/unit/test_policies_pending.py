"""How long a run may stay pending."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.failures import Reason
from finetune_api.spec import ResilienceSpec
from finetune_core.policies.pending import timed_out, times_out_at
from finetune_core.runs import PendingCause
from tests.builders import NOON, after

REASONS = (
    Reason.UNSCHEDULABLE,
    Reason.QUOTA_EXCEEDED,
    Reason.IMAGE_UNAVAILABLE,
    Reason.SETUP_FAILED,
    Reason.FORBIDDEN,
)


def cause(reason: Reason) -> PendingCause:
    return PendingCause(reason, "No node takes it.", NOON)


@pytest.mark.parametrize("reason", [Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED])
def test_queued_run_may_wait_for_the_whole_pending_timeout(reason: Reason) -> None:
    resilience = ResilienceSpec(pending_timeout_seconds=7200)
    assert times_out_at(cause(reason), resilience) == after(hours=2)


@pytest.mark.parametrize("reason", [Reason.IMAGE_UNAVAILABLE, Reason.SETUP_FAILED, Reason.FORBIDDEN])
def test_other_causes_time_out_after_minutes(reason: Reason) -> None:
    assert times_out_at(cause(reason), ResilienceSpec()) == after(minutes=5)


@pytest.mark.parametrize("reason", REASONS)
def test_no_cause_exceeds_the_pending_timeout(reason: Reason) -> None:
    assert times_out_at(cause(reason), ResilienceSpec(pending_timeout_seconds=10)) == after(seconds=10)


@pytest.mark.parametrize(
    ("waited", "words"),
    [
        (timedelta(seconds=2), "1 minute"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(hours=24), "24 hours"),
    ],
)
def test_error_contains_cause_and_waiting_time(waited: timedelta, words: str) -> None:
    error = timed_out(cause(Reason.UNSCHEDULABLE), NOON + waited)
    assert error.reason is Reason.UNSCHEDULABLE
    assert error.message == f"No node takes it. Not started within {words}."
