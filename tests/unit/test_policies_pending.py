"""How long a run may stay pending."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.failures import Reason
from finetune_api.spec import ResilienceSpec
from finetune_core.policies.pending import is_same_wait, timed_out, times_out_at
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
    return PendingCause(reason, "No node takes it.")


@pytest.mark.parametrize("reason", [Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED])
def test_queued_run_may_wait_for_the_whole_pending_timeout(reason: Reason) -> None:
    resilience = ResilienceSpec(pending_timeout_seconds=7200)
    assert times_out_at(cause(reason), NOON, resilience) == after(hours=2)


@pytest.mark.parametrize("reason", [Reason.IMAGE_UNAVAILABLE, Reason.SETUP_FAILED, Reason.FORBIDDEN])
def test_other_causes_time_out_after_minutes(reason: Reason) -> None:
    assert times_out_at(cause(reason), NOON, ResilienceSpec()) == after(minutes=5)


@pytest.mark.parametrize("reason", REASONS)
def test_no_cause_exceeds_the_pending_timeout(reason: Reason) -> None:
    assert times_out_at(cause(reason), NOON, ResilienceSpec(pending_timeout_seconds=10)) == after(seconds=10)


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
    error = timed_out(cause(Reason.UNSCHEDULABLE), NOON, NOON + waited)
    assert error.reason is Reason.UNSCHEDULABLE
    assert error.message == f"No node takes it. Not started within {words}."


def test_hopeless_run_does_not_wait() -> None:
    hopeless = PendingCause(Reason.QUOTA_EXCEEDED, "It can never fit.", hopeless=True)
    assert times_out_at(hopeless, NOON, ResilienceSpec()) == NOON
    assert timed_out(hopeless, NOON, NOON).message == "It can never fit."


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (None, Reason.UNSCHEDULABLE, True),
        (Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED, True),
        (Reason.SETUP_FAILED, Reason.SETUP_FAILED, True),
        (None, Reason.IMAGE_UNAVAILABLE, False),
        (Reason.UNSCHEDULABLE, Reason.IMAGE_UNAVAILABLE, False),
        (Reason.IMAGE_UNAVAILABLE, Reason.UNSCHEDULABLE, False),
    ],
)
def test_a_run_waits_on_as_long_as_it_waits_for_the_same(before: Reason | None, now: Reason, same: bool) -> None:
    assert is_same_wait(before, cause(now)) is same
