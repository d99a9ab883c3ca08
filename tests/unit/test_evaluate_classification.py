"""Metrics of classifiers with probabilities or any number of labels, compared with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from finetune_api.spec import Metric
from finetune_trainer.evaluate.classification import Classified, compared, counts_by_label, one_hot
from finetune_trainer.evaluate.metrics import MULTI_LABEL, multi_label_scores
from finetune_trainer.evaluate.probabilities import auroc, calibration_error

LOGITS = np.array(
    [
        [2.0, -1.0, 0.3],
        [-0.4, 0.2, -2.0],
        [-1.0, -3.0, -0.2],
        [0.4, 1.5, -0.6],
        [-0.1, -0.2, 0.9],
        [0.1, -1.2, -0.7],
        [3.0, 0.45, 2.2],
        [-2.2, -0.9, 0.2],
    ]
)
GOLD = np.array(
    [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]], dtype=np.bool_
)
"""Rows 3 and 6 have no label and count."""


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def ones(examples: int) -> Any:
    return np.ones((1, examples))


def value(metric: Metric, gold: Any, output: Classified, labels: int) -> float:
    result = compared(metric, gold, output, output, labels=labels, seed=1)
    assert result
    assert result.baseline == result.tuned
    return result.tuned


def test_threshold_is_a_probability_and_rows_without_labels_count() -> None:
    output = Classified.multiple(sigmoid(LOGITS))
    assert value(Metric.MICRO_F1, GOLD, output, 3) == pytest.approx(0.909091, abs=1e-6)
    assert value(Metric.MACRO_F1, GOLD, output, 3) == pytest.approx(0.916667, abs=1e-6)
    assert counts_by_label(GOLD, output.predicted, 3).f1[0] == pytest.approx([0.75, 1, 1])
    assert not output.predicted[2].any()
    assert output.predicted[5].tolist() == [True, False, False]
    assert value(Metric.ACCURACY, GOLD, output, 3) == accuracy_score(GOLD, output.predicted)


_MULTI_LABEL = {
    Metric.ACCURACY: accuracy_score,
    Metric.MICRO_F1: lambda gold, predicted: f1_score(gold, predicted, average="micro", zero_division=0),
    Metric.MACRO_F1: lambda gold, predicted: f1_score(gold, predicted, average="macro", zero_division=np.nan),
    Metric.WEIGHTED_F1: lambda gold, predicted: f1_score(gold, predicted, average="weighted", zero_division=0),
}


@pytest.mark.parametrize("metric", MULTI_LABEL)
@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_label_lists_equal_scikit_learns(metric: Metric, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gold, predicted = (generator.random((30, 6)) < 0.3 for _ in range(2))
    gold[:, 4:] = False
    predicted[:, 5] = False  # One label is only predicted, and one neither occurs nor is predicted.
    times = generator.integers(0, 3, 30)
    weighted = multi_label_scores(metric, gold, predicted, np.stack([np.ones(30), times]))
    assert weighted[0] == pytest.approx(_MULTI_LABEL[metric](gold, predicted))
    assert weighted[1] == pytest.approx(_MULTI_LABEL[metric](gold.repeat(times, 0), predicted.repeat(times, 0)))


@pytest.mark.parametrize("labels", [2, 5])
def test_auroc_of_one_label_a_row_equals_scikit_learns(labels: int) -> None:
    generator = np.random.default_rng(labels)
    gold = generator.integers(0, labels, 60)
    # Rounded, so that there are ties.
    scores = generator.dirichlet(np.ones(labels), 60).round(1)
    scores /= scores.sum(axis=1, keepdims=True)
    times = generator.integers(1, 3, 60)
    found = auroc(one_hot(gold, labels), scores, np.stack([np.ones(60), times]))
    for area, repeated in zip(found, (np.ones(60, int), times), strict=True):
        truth, own = gold.repeat(repeated), scores.repeat(repeated, 0)
        expected = roc_auc_score(truth, own[:, 1]) if labels == 2 else roc_auc_score(truth, own, multi_class="ovr")
        assert area == pytest.approx(expected)


def test_auroc_of_label_lists_equals_scikit_learns() -> None:
    assert auroc(GOLD, LOGITS, ones(8))[0] == pytest.approx(roc_auc_score(GOLD, LOGITS))


def test_auroc_leaves_out_a_label_that_no_row_has() -> None:
    gold, scores = (
        np.array([0, 0, 1, 1]),
        np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]),
    )
    both = [roc_auc_score(gold == label, scores[:, label]) for label in (0, 1)]
    assert auroc(one_hot(gold, 3), scores, ones(4))[0] == pytest.approx(np.mean(both))


def test_rows_of_one_label_have_no_auroc() -> None:
    output = Classified.single(np.array([[0.6, 0.4], [0.2, 0.8]]))
    assert compared(Metric.AUROC, np.array([1, 1]), output, output, labels=2, seed=1) is None


def expected_calibration_error(confidences: Any, right: Any) -> float:
    """By its definition: bins (0, 1/15], (1/15, 2/15], …, each weighted by its share of the rows."""
    error = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidences > lower) & (confidences <= lower + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return error


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(4, 0.5), 200)
    gold, output = generator.integers(0, 4, 200), Classified.single(probabilities)
    expected = expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold)
    assert value(Metric.ECE, gold, output, 4) == pytest.approx(expected)


def test_calibration_error_of_sure_and_right_predictions_is_zero() -> None:
    assert calibration_error(np.array([True, True]), np.array([1.0, 1.0]), ones(2))[0] == 0
    assert calibration_error(np.array([True, False]), np.array([1.0, 1.0]), ones(2))[0] == 0.5


@pytest.mark.parametrize("metric", [*MULTI_LABEL, Metric.AUROC])
def test_interval_of_a_change_contains_it(metric: Metric) -> None:
    generator = np.random.default_rng(3)
    gold = generator.random((150, 3)) < 0.4
    bad, good = (np.clip(gold * 0.3 + generator.random((150, 3)) * noise, 0, 1) for noise in (1.0, 0.75))
    result = compared(metric, gold, Classified.multiple(bad), Classified.multiple(good), labels=3, seed=1)
    assert result
    assert result.interval[0] < result.change < result.interval[1]
    assert result.interval[1] - result.interval[0] < 0.5


def test_lower_calibration_error_is_better() -> None:
    gold = np.tile([0, 1], 100)
    sure = np.where(gold[:, None] == [0, 1], 0.95, 0.05)
    result = compared(Metric.ECE, gold, Classified.single(sure * 0.2 + 0.4), Classified.single(sure), labels=2, seed=1)
    assert result
    assert result.change < 0
    assert result.verdict == "better"
