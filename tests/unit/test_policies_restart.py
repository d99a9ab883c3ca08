"""Whether and when a failed stage is retried."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.failures import Reason
from finetune_core.policies.restart import decide, delay


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_decision(reason: Reason) -> None:
    assert decide(reason, disrupted=False, restarts=0, max_restarts=1).retried in (True, False)


def test_not_retried_when_restarts_are_used_up() -> None:
    decision = decide(Reason.KILLED, disrupted=False, restarts=2, max_restarts=2)
    assert (decision.retried, decision.exhausted) == (False, True)


def test_disruption_does_not_count_as_restart() -> None:
    decision = decide(Reason.KILLED, disrupted=True, restarts=2, max_restarts=2)
    assert (decision.retried, decision.counted) == (True, False)


def test_disruption_does_not_retry_reasons_that_need_a_person() -> None:
    assert not decide(Reason.BAD_DATA, disrupted=True, restarts=0, max_restarts=2).retried


def test_back_off_doubles_up_to_five_minutes() -> None:
    waits = [
        delay(Reason.KILLED, attempt=1, restarts=restarts, chance=0).total_seconds()
        for restarts in (1, 2, 3, 8, 9, 1000)
    ]
    assert waits == [2, 4, 8, 256, 300, 300]


def test_back_off_for_an_unreachable_service_grows_with_attempts() -> None:
    waits = [delay(Reason.UNAVAILABLE, attempt=attempt, restarts=0, chance=0).total_seconds() for attempt in (1, 2, 5)]
    assert waits == [2, 4, 32]


def test_stop_is_retried_at_once_but_not_in_a_tight_loop() -> None:
    assert delay(Reason.STOPPED, attempt=1, restarts=0, chance=0) == timedelta(0)
    assert delay(Reason.STOPPED, attempt=9, restarts=0, chance=0) == timedelta(seconds=10)


def test_gangs_that_wait_for_each_other_start_again_at_different_times() -> None:
    first, last = (delay(Reason.INCOMPLETE_GANG, attempt=1, restarts=0, chance=chance) for chance in (0, 1))
    assert (first, last) == (timedelta(minutes=1), timedelta(minutes=5))
