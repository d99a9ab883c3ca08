"""The note about a validation loss that rises."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluate.overfitting import overfitting


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": 10 * (number + 1), "loss": loss} for number, loss in enumerate(losses)]


def test_a_rise_is_told_with_its_step() -> None:
    assert overfitting(curve(2.5, 2.0, 2.9)) == [
        "the validation loss was lowest at step 20 (2) and ended at 2.9: the model overfits, and fewer epochs may give "
        "a better one"
    ]


@pytest.mark.parametrize("losses", [(), (2.0,), (2.5, 2.0), (2.5, 2.0, 2.1)])
def test_a_curve_that_falls_or_barely_rises_is_not(losses: tuple[float, ...]) -> None:
    assert overfitting(curve(*losses)) == []
