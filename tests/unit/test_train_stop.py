"""How long a stop request waits for the current step."""

from __future__ import annotations

import pytest

from finetune_api.events import AliveEvent, Event
from finetune_trainer.context import Reporter
from finetune_trainer.train import stop
from finetune_trainer.train.stop import StopRequest


class Training:
    """A training that can be stopped, with a simulated clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        monkeypatch.setattr(stop.time, "monotonic", lambda: self._now)
        self.reported: list[Event] = []
        reporter = Reporter(None)
        monkeypatch.setattr(reporter, "send", self.reported.append)
        self.request = StopRequest(reporter)

    def hangs_after(self, seconds: float) -> bool:
        self._now += seconds
        return self.request.hangs

    def step(self, seconds: float) -> None:
        self._now += seconds
        self.request.sign_of_life()


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


@pytest.mark.parametrize(("steps", "patience"), [([1, 1, 1], 20), ([30, 1], 150)])
def test_patience_depends_on_the_longest_step(training: Training, steps: list[float], patience: float) -> None:
    for seconds in steps:
        training.step(seconds)
    assert not training.hangs_after(patience)
    assert training.hangs_after(0.1)


def test_saving_a_checkpoint_does_not_count_as_hanging(training: Training) -> None:
    training.request.saving()
    assert not training.hangs_after(3600)
    training.step(0)
    assert training.hangs_after(20.1), "the duration of the checkpoint must not count as that of a step"


def test_signs_of_life_are_reported_at_most_once_a_second(training: Training) -> None:
    for _ in range(8):
        training.step(0.25)
    assert training.reported == [AliveEvent(), AliveEvent()]
