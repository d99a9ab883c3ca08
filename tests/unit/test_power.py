"""The notes about test splits that are too small for a gate, checked with simulated test splits."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from finetune_api.spec import EvaluationSpec, Gate, Metric
from finetune_trainer.evaluate.intervals import classification_interval, ratio_interval
from finetune_trainer.evaluate.metrics import Ints, metric_result
from finetune_trainer.evaluate.power import fewest_examples, notes_after, notes_before

Interval = tuple[float, float]
Split = Callable[[np.random.Generator, int], Interval]
"""The measured interval of a simulated test split with that many examples."""

SPLITS = 120
RESAMPLES = 500


def gates(**improvements: float) -> EvaluationSpec:
    asked = tuple(Gate(metric=Metric(name), minimum_improvement=value) for name, value in improvements.items())
    return EvaluationSpec(gates=asked)


def accuracy(before: Ints, after: Ints) -> Interval:
    """The interval of the change of the accuracy, for models that are right where an array is 0."""
    gold = np.zeros(len(before), np.int64)
    return classification_interval(Metric.ACCURACY, gold, before, after, 2, seed=1, resamples=RESAMPLES)


def decisions(generator: np.random.Generator, examples: int) -> Interval:
    """Of all examples, 12.5 % get better and 7.5 % get worse: an improvement of 0.05."""
    drawn = generator.random(examples)
    before = np.where(drawn < 0.125, 1, 0)
    return accuracy(before, np.where((drawn >= 0.125) & (drawn < 0.2), 1, 0))


def values(generator: np.random.Generator, examples: int) -> Interval:
    """Values of which each changes by 0.05 and a deviation of 0.25."""
    before = generator.random(examples)
    after = before + generator.normal(0.05, 0.25, examples)
    return ratio_interval(before, after, np.ones(examples), seed=1, resamples=RESAMPLES)


@pytest.mark.parametrize(("split", "metric"), [(decisions, Metric.ACCURACY), (values, Metric.ROUGE_L)])
def test_the_number_of_examples_that_is_noted_shows_the_improvement_in_four_of_five_splits(
    split: Split, metric: Metric
) -> None:
    generator = np.random.default_rng(3)
    noted = []
    for _ in range(SPLITS):
        low, high = split(generator, 40)
        result = metric_result(metric, 0.5, 0.5 + (low + high) / 2, (low, high))
        (note,) = notes_after(gates(**{metric: 0.05}), [result], 40)
        found = re.search(r"about ([0-9,]+) would show it four times out of five", note)
        assert found
        noted.append(int(found[1].replace(",", "")))
    examples = int(np.median(noted))
    shown = np.mean([split(generator, examples)[0] > 0 for _ in range(SPLITS)])
    assert 0.7 < shown < 0.9


@pytest.mark.parametrize("improvement", [0.02, 0.1, 0.5])
def test_fewest_examples_are_those_whose_interval_excludes_zero(improvement: float) -> None:
    def lowest(examples: int) -> float:
        better = round(improvement * examples)
        before = np.array([row < better for row in range(examples)], np.int64)
        return accuracy(before, np.zeros_like(before))[0]

    fewest = fewest_examples(improvement)
    assert lowest(round(fewest * 1.4)) > 0
    assert lowest(round(fewest * 0.6)) == 0


def test_a_small_test_split_is_noted_before_training() -> None:
    (note,) = notes_before(gates(accuracy=0.02, chrf=2.0), 78)
    assert note.startswith("78 test examples are too few to show the improvement of 0.02 in accuracy that a gate asks")
    assert notes_before(gates(accuracy=0.02), 183) == []
    assert notes_before(gates(accuracy=-0.02), 5) == []
    assert notes_before(EvaluationSpec(gates=(Gate(metric=Metric.ACCURACY, minimum=0.9),)), 5) == []


def test_a_small_change_of_macro_f1_can_come_from_many_examples() -> None:
    """So nothing is noted: with rare labels, 128 examples show an improvement of 0.01."""
    gold = np.array([0] * 60 + [1] * 60 + list(range(2, 10)))
    before = gold.copy()
    before[:6] = 1
    low, high = classification_interval(Metric.MACRO_F1, gold, before, gold, 10, seed=1, resamples=RESAMPLES)
    assert 0 < low < high < 0.04
    assert notes_before(gates(macro_f1=0.01), len(gold)) == []


def test_a_change_that_is_less_certain_than_its_gate_is_noted() -> None:
    result = metric_result(Metric.CHRF, 10.0, 15.0, (1.0, 9.0))
    (note,) = notes_after(gates(chrf=2.0), [result], 50)
    assert note == (
        "50 test examples show a change of chrf to ±4, too coarse for the gate's 2: about 410 would show it four times "
        "out of five"
    )
    assert notes_after(gates(chrf=4.5), [result], 50) == []


def test_the_verdict_of_few_examples_is_noted() -> None:
    assert notes_after(EvaluationSpec(), [], 10) == []
    (note,) = notes_after(EvaluationSpec(), [], 9)
    assert note.startswith("9 test examples are few: a bootstrap of so few is too sure of its intervals")
