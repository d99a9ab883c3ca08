"""Evaluation metrics, as pure functions of predictions.

Each metric is a function of sums over examples, so that a bootstrap can recompute it from resampled sums.
Classification metrics equal those of scikit-learn with its defaults. Accuracy, F1, exact match, token accuracy and
ROUGE range from 0 to 1, chrF and BLEU from 0 to 100 as in sacreBLEU; loss is in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluation import MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.rouge import rouge_1, rouge_2, rouge_l, rouge_lsum

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[Any]
"""`Ints` of shape (examples,), the label of each example; or, where an example has any number of labels, `Bools` of
shape (examples, labels), whether it has each of them."""

CLASSIFICATION = (Metric.ACCURACY, Metric.MACRO_F1, Metric.WEIGHTED_F1, Metric.MCC)
"""Metrics of predicted labels, one for each example."""
MULTI_LABEL = (Metric.ACCURACY, Metric.MICRO_F1, Metric.MACRO_F1, Metric.WEIGHTED_F1)
"""Metrics of predicted labels, any number for each example."""
NO_LABEL = -1
"""Prediction of a model whose answer is no label."""
TEACHER_FORCED = (Metric.LOSS, Metric.TOKEN_ACCURACY)


@dataclass(frozen=True)
class LabelCounts:
    """Counts per label for one or more weightings of the examples: arrays of shape (weightings, labels)."""

    gold: Floats
    predicted: Floats
    hits: Floats

    @property
    def recall(self) -> Floats:
        """Recall per label; 0 for a label without examples."""
        return self.hits / np.maximum(self.gold, 1)

    @property
    def precision(self) -> Floats:
        """Precision per label; 0 for a label that is not predicted."""
        return self.hits / np.maximum(self.predicted, 1)

    @property
    def f1(self) -> Floats:
        """F1 per label; 0 for a label that neither occurs nor is predicted."""
        return 2 * self.hits / np.maximum(self.gold + self.predicted, 1)


def label_counts(gold: Ints, predicted: Ints, weights: Floats, labels: int) -> LabelCounts:
    """Count examples, predictions and correct predictions per label.

    Args:
        gold: True labels, of shape (examples,).
        predicted: Predicted labels, of shape (examples,); `NO_LABEL` counts as none of them.
        weights: Weight of each example, of shape (weightings, examples).
        labels: Number of labels.
    """
    hit = gold == predicted
    return LabelCounts(
        gold=_sums_by_label(gold, weights, labels),
        predicted=_sums_by_label(predicted, weights, labels),
        hits=_sums_by_label(gold[hit], weights[:, hit], labels),
    )


def classification_scores(metric: Metric, gold: Ints, predicted: Ints, weights: Floats, labels: int) -> Floats:
    """Compute ``metric`` for each weighting of the examples; arguments as for `label_counts`.

    As in ``sklearn.metrics.f1_score``, macro_f1 is the mean over the labels in ``gold`` or ``predicted``, and
    weighted_f1 weights labels by their number of examples.

    Returns:
        Scores of shape (weightings,), from 0 to 1; mcc from -1 to 1.
    """
    if metric is Metric.ACCURACY:
        scores: Floats = weights @ (gold == predicted) / weights.sum(axis=1)
        return scores
    counts = label_counts(gold, predicted, weights, labels)
    return _correlation(counts) if metric is Metric.MCC else _f1(metric, counts)


def _f1(metric: Metric, counts: LabelCounts) -> Floats:
    """micro_f1, macro_f1 or weighted_f1, of shape (weightings,)."""
    if metric is Metric.MICRO_F1:
        micro: Floats = 2 * counts.hits.sum(axis=1) / np.maximum((counts.gold + counts.predicted).sum(axis=1), 1)
        return micro
    if metric is Metric.WEIGHTED_F1:
        weighted: Floats = (counts.f1 * counts.gold).sum(axis=1) / np.maximum(counts.gold.sum(axis=1), 1)
        return weighted
    occurring = (counts.gold + counts.predicted > 0).sum(axis=1)
    macro: Floats = counts.f1.sum(axis=1) / np.maximum(occurring, 1)
    return macro


def _correlation(counts: LabelCounts) -> Floats:
    """Matthews correlation coefficient; 0 where all labels or all predictions are the same."""
    examples, hits = counts.gold.sum(axis=1), counts.hits.sum(axis=1)
    both = examples * hits - (counts.gold * counts.predicted).sum(axis=1)
    spread = [examples**2 - (values**2).sum(axis=1) for values in (counts.gold, counts.predicted)]
    product = spread[0] * spread[1]
    correlation: Floats = np.where(product > 0, both / np.sqrt(np.maximum(product, 1)), 0.0)
    return correlation


def multi_label_counts(gold: Bools, predicted: Bools, weights: Floats) -> LabelCounts:
    """Count examples, predictions and correct predictions per label.

    Args:
        gold: Whether each example has each label, of shape (examples, labels).
        predicted: Whether it is predicted, of the same shape.
        weights: Weight of each example, of shape (weightings, examples).
    """
    gold_sums, predicted_sums, hits = (
        weights.astype(np.float64) @ matrix.astype(np.float64) for matrix in (gold, predicted, gold & predicted)
    )
    return LabelCounts(gold_sums, predicted_sums, hits)


def multi_label_scores(metric: Metric, gold: Bools, predicted: Bools, weights: Floats) -> Floats:
    """Compute one of `MULTI_LABEL` for each weighting of the examples; arguments as for `multi_label_counts`.

    The metrics are those of scikit-learn for label indicator matrices: accuracy is the share of examples with all
    labels right. As with one label, macro_f1 is the mean over the labels that occur or are predicted, which is
    ``zero_division=nan``.

    Returns:
        Scores from 0 to 1, of shape (weightings,).
    """
    if metric is Metric.ACCURACY:
        scores: Floats = weights @ (gold == predicted).all(axis=1) / weights.sum(axis=1)
        return scores
    return _f1(metric, multi_label_counts(gold, predicted, weights))


def classification_score(metric: Metric, gold: Ints, predicted: Ints, labels: int) -> float:
    """Compute ``metric`` over all examples; arguments as for `label_counts`."""
    return float(classification_scores(metric, gold, predicted, np.ones((1, len(gold))), labels)[0])


def _sums_by_label(labels_of: Ints, weights: Floats, labels: int) -> Floats:
    sums = np.zeros((len(weights), labels))
    if (labels_of == NO_LABEL).any():
        weights, labels_of = weights[:, labels_of != NO_LABEL], labels_of[labels_of != NO_LABEL]
    if len(labels_of):
        order = np.argsort(labels_of, kind="stable")
        present, starts = np.unique(labels_of[order], return_index=True)
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def exact_match(answer: str, reference: str) -> float:
    """1 if both texts are equal up to leading and trailing white space, else 0."""
    return float(answer.strip() == reference.strip())


AnswerMetric = Callable[[str, str], float]
"""The value of a metric for one answer and its reference."""

ANSWER_METRICS: dict[Metric, AnswerMetric] = {
    Metric.EXACT_MATCH: exact_match,
    Metric.ROUGE_L: rouge_l,
    Metric.ROUGE_1: rouge_1,
    Metric.ROUGE_2: rouge_2,
    Metric.ROUGE_LSUM: rouge_lsum,
}
"""Metrics of generated answers, averaged over the answers of a split. `corpus_metrics` has the others."""


def ratio(values: Floats, weights: Floats) -> float:
    """The weighted mean of ``values``, such as a loss weighted by tokens; both of shape (examples,)."""
    return float((values * weights).sum() / weights.sum())


def metric_result(name: Metric, baseline: float, tuned: float, interval: tuple[float, float]) -> MetricResult:
    """The MetricResult of a metric, with the confidence interval of its change."""
    return MetricResult(
        name=name,
        baseline=baseline,
        tuned=tuned,
        change=tuned - baseline,
        interval=interval,
        higher_is_better=name.higher_is_better,
    )
