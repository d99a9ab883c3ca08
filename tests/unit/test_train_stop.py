"""How long a step is waited for when training is asked to stop."""

from __future__ import annotations

import pytest

from finetune_trainer.context import Reporter
from finetune_trainer.train import stop
from finetune_trainer.train.stop import StopRequest


class Training:
    """A training that may be asked to stop, in a time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        monkeypatch.setattr(stop.time, "monotonic", lambda: self._now)
        self.request = StopRequest(Reporter(None))

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
def test_a_step_is_waited_for_by_how_long_others_took(training: Training, steps: list[float], patience: float) -> None:
    for seconds in steps:
        training.step(seconds)
    assert not training.hangs_after(patience)
    assert training.hangs_after(0.1)


def test_a_checkpoint_takes_what_it_takes(training: Training) -> None:
    training.request.saving()
    assert not training.hangs_after(3600)
    training.step(0)
    assert training.hangs_after(20.1), "the time of the checkpoint is no measure of a step"
