"""How long a run may wait before it computes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.failures import Reason
from finetune_api.spec import ResilienceSpec
from finetune_core.policies.pending import given_up, gives_up_at
from finetune_core.runs import Trouble
from tests.builders import NOON, after

TROUBLES = (
    Reason.UNSCHEDULABLE,
    Reason.QUOTA_EXCEEDED,
    Reason.IMAGE_UNAVAILABLE,
    Reason.SETUP_FAILED,
    Reason.FORBIDDEN,
)


def trouble(reason: Reason) -> Trouble:
    return Trouble(reason, "No node takes it.", NOON)


@pytest.mark.parametrize("reason", [Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED])
def test_a_queue_may_take_as_long_as_the_job_allows(reason: Reason) -> None:
    resilience = ResilienceSpec(pending_timeout_seconds=7200)
    assert gives_up_at(trouble(reason), resilience) == after(hours=2)


@pytest.mark.parametrize("reason", [Reason.IMAGE_UNAVAILABLE, Reason.SETUP_FAILED, Reason.FORBIDDEN])
def test_what_seldom_passes_is_given_up_after_minutes(reason: Reason) -> None:
    assert gives_up_at(trouble(reason), ResilienceSpec()) == after(minutes=5)


@pytest.mark.parametrize("reason", TROUBLES)
def test_never_longer_than_the_job_allows(reason: Reason) -> None:
    assert gives_up_at(trouble(reason), ResilienceSpec(pending_timeout_seconds=10)) == after(seconds=10)


@pytest.mark.parametrize(
    ("waited", "words"),
    [
        (timedelta(seconds=2), "1 minute"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(hours=24), "24 hours"),
    ],
)
def test_the_error_says_why_and_how_long(waited: timedelta, words: str) -> None:
    error = given_up(trouble(Reason.UNSCHEDULABLE), NOON + waited)
    assert error.reason is Reason.UNSCHEDULABLE
    assert error.message == f"No node takes it. Given up after {words}."
