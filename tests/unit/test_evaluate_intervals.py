"""Bootstrap intervals: known cases, pairing, and coverage of the true change."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_api.spec import Metric
from finetune_trainer.evaluate.intervals import classification_interval, ratio_interval
from finetune_trainer.evaluate.metrics import CLASSIFICATION, classification_score


@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_interval_contains_the_change_and_depends_on_the_seed_only(metric: Metric) -> None:
    generator = np.random.default_rng(1)
    gold = generator.integers(0, 4, 300)
    baseline = np.where(generator.random(300) < 0.6, gold, generator.integers(0, 4, 300))
    tuned = np.where(generator.random(300) < 0.8, gold, generator.integers(0, 4, 300))
    low, high = classification_interval(metric, gold, baseline, tuned, 4, seed=7)
    change = classification_score(metric, gold, tuned, 4) - classification_score(metric, gold, baseline, 4)
    assert low < change < high
    assert (low, high) == classification_interval(metric, gold, baseline, tuned, 4, seed=7)
    assert (low, high) != classification_interval(metric, gold, baseline, tuned, 4, seed=8)


@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_interval_of_equal_predictions_has_zero_width(metric: Metric) -> None:
    gold, predicted = np.array([0, 1, 2, 0]), np.array([0, 1, 1, 0])
    assert classification_interval(metric, gold, predicted, predicted, 3, seed=1) == (0, 0)


def test_interval_of_a_function_of_the_mean_is_that_of_its_values() -> None:
    """Of the differences of perplexities, not the function of a difference."""
    generator = np.random.default_rng(4)
    baseline, weights = generator.normal(3, 0.5, 300), generator.integers(1, 50, 300).astype(float)
    tuned = baseline - 0.2 + generator.normal(0, 0.1, 300)
    low, high = ratio_interval(baseline, tuned, weights, seed=1, transform=np.exp)
    change = np.exp(np.average(tuned, weights=weights)) - np.exp(np.average(baseline, weights=weights))
    assert low < change < high < 0
    # By the delta method, the deviation is about this; see Efron and Tibshirani 1993, chapter 21.
    slope = np.exp(np.average(baseline, weights=weights))
    assert 0.05 * slope / 10 < high - low < 0.5 * slope


def test_drawing_counts_is_equivalent_to_drawing_examples() -> None:
    generator = np.random.default_rng(2)
    gold, baseline, tuned = (generator.integers(0, 3, 200) for _ in range(3))
    cells = classification_interval(Metric.ACCURACY, gold, baseline, tuned, 3, seed=3, resamples=20_000)
    examples = ratio_interval(
        (gold == baseline).astype(float), (gold == tuned).astype(float), np.ones(200), seed=4, resamples=20_000
    )
    assert cells == pytest.approx(examples, abs=0.006)


def test_pairing_cancels_the_difficulty_of_examples() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 5, 400)
    baseline, tuned = hard + generator.normal(0, 0.1, 400), hard + 0.05 + generator.normal(0, 0.1, 400)
    low, high = ratio_interval(baseline, tuned, np.ones(400), seed=5)
    assert 0 < low < 0.05 < high < 0.1


def test_examples_of_weight_zero_are_ignored() -> None:
    baseline, tuned, weights = np.array([1.0, 2.0, 99.0]), np.array([0.5, 1.0, -99.0]), np.array([4.0, 2.0, 0.0])
    without_it = ratio_interval(baseline[:2], tuned[:2], weights[:2], seed=6)
    assert ratio_interval(baseline, tuned, weights, seed=6) == without_it


def test_interval_covers_the_true_change_in_about_95_percent_of_samples() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for seed in range(300):
        weights = generator.integers(5, 50, 150).astype(float)
        baseline = generator.gamma(2.0, 1.0, 150)
        tuned = baseline + generator.normal(0.1, 0.5, 150)
        low, high = ratio_interval(baseline, tuned, weights, seed=seed, resamples=1000)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_many_labels_and_examples_are_drawn_in_chunks() -> None:
    generator = np.random.default_rng(6)
    gold, baseline, tuned = (generator.integers(0, 100, 3000) for _ in range(3))
    low, high = classification_interval(Metric.MACRO_F1, gold, baseline, tuned, 100, seed=1, resamples=3000)
    assert -0.03 < low < high < 0.03
