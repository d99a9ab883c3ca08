"""How long a step is waited for when training is asked to stop."""

from __future__ import annotations

import pytest

from finetune_trainer.context import Reporter
from finetune_trainer.train import stop
from finetune_trainer.train.stop import StopRequest


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(stop.time, "monotonic", lambda: self.now)

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def request_(clock: Clock) -> StopRequest:
    assert clock.now, "it begins now"
    return StopRequest(Reporter(None))


def test_short_steps_are_waited_for_twenty_seconds(clock: Clock, request_: StopRequest) -> None:
    for _ in range(3):
        clock.pass_(1)
        request_.sign_of_life()
    clock.pass_(20)
    assert not request_.hangs
    clock.pass_(0.1)
    assert request_.hangs


def test_long_steps_are_waited_for_longer(clock: Clock, request_: StopRequest) -> None:
    clock.pass_(30)
    request_.sign_of_life()
    clock.pass_(1)
    request_.sign_of_life()
    clock.pass_(150)
    assert not request_.hangs
    clock.pass_(0.1)
    assert request_.hangs


def test_a_checkpoint_takes_what_it_takes(clock: Clock, request_: StopRequest) -> None:
    request_.saving()
    clock.pass_(3600)
    assert not request_.hangs
    request_.sign_of_life()
    clock.pass_(20.1)
    assert request_.hangs, "the time of the checkpoint is no measure of a step"
