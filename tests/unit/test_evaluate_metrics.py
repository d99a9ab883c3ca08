"""Metrics of the evaluate stage, compared with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_score, recall_score

from finetune_api.spec import Metric
from finetune_trainer.evaluate.metrics import (
    CLASSIFICATION,
    classification_score,
    classification_scores,
    exact_match,
    label_counts,
    ratio,
)

_REFERENCES = {
    Metric.ACCURACY: accuracy_score,
    Metric.MACRO_F1: lambda gold, predicted: f1_score(gold, predicted, average="macro", zero_division=0),
    Metric.WEIGHTED_F1: lambda gold, predicted: f1_score(gold, predicted, average="weighted", zero_division=0),
    Metric.MCC: matthews_corrcoef,
}


@pytest.mark.parametrize("metric", CLASSIFICATION)
@pytest.mark.parametrize("seed", range(5))
def test_classification_scores_equal_scikit_learns(metric: Metric, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Nine labels: some never occur, and some are only predicted.
    gold, predicted = generator.integers(0, 6, 40), generator.integers(2, 8, 40)
    assert classification_score(metric, gold, predicted, 9) == pytest.approx(_REFERENCES[metric](gold, predicted))


@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_an_integer_weight_is_equivalent_to_repetition(metric: Metric) -> None:
    gold, predicted, times = np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1]), np.array([3, 0, 2, 1])
    weighted = classification_scores(metric, gold, predicted, times[None].astype(float), 3)
    assert weighted[0] == pytest.approx(_REFERENCES[metric](gold.repeat(times), predicted.repeat(times)))


def test_precision_and_recall_per_label_equal_scikit_learns() -> None:
    gold, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    counts = label_counts(gold, predicted, np.ones((1, 5)), 3)
    assert counts.recall[0, :2] == pytest.approx(recall_score(gold, predicted, average=None))
    assert counts.precision[0, :2] == pytest.approx(precision_score(gold, predicted, average=None))
    assert (counts.recall[0, 2], counts.precision[0, 2]) == (0, 0)


def test_correlation_of_constant_predictions_is_zero() -> None:
    assert classification_score(Metric.MCC, np.array([0, 1, 1]), np.array([1, 1, 1]), 2) == 0


def test_scores_are_zero_without_correct_predictions() -> None:
    gold, predicted = np.array([0, 0]), np.array([1, 1])
    assert [classification_score(metric, gold, predicted, 2) for metric in CLASSIFICATION] == [0, 0, 0, 0]


def test_exact_match_ignores_white_space_at_the_ends_only() -> None:
    assert exact_match(" yes\n", "yes") == 1
    assert exact_match("Yes", "yes") == 0


def test_ratio_is_a_weighted_mean() -> None:
    assert ratio(np.array([1.0, 4.0]), np.array([3.0, 1.0])) == pytest.approx(1.75)
