"""Evaluation metrics, as pure functions of predictions.

Each metric is a function of sums over examples, so that a bootstrap can recompute it from resampled sums.
Classification metrics equal those of scikit-learn with its defaults. Accuracy, F1, exact match, token accuracy and
ROUGE range from 0 to 1, chrF and BLEU from 0 to 100 as in sacreBLEU; loss is in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec import Metric
from finetune_trainer.evaluate.rouge import rouge_1, rouge_2, rouge_l, rouge_lsum

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLASSIFICATION = (Metric.ACCURACY, Metric.MACRO_F1, Metric.WEIGHTED_F1)
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
    def f1(self) -> Floats:
        """F1 per label; 0 for a label that neither occurs nor is predicted."""
        return 2 * self.hits / np.maximum(self.gold + self.predicted, 1)


def label_counts(gold: Ints, predicted: Ints, weights: Floats, labels: int) -> LabelCounts:
    """Count examples, predictions and correct predictions per label.

    Args:
        gold: True labels, of shape (examples,).
        predicted: Predicted labels, of shape (examples,).
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
        Scores from 0 to 1, of shape (weightings,).
    """
    if metric is Metric.ACCURACY:
        scores: Floats = weights @ (gold == predicted) / weights.sum(axis=1)
        return scores
    counts = label_counts(gold, predicted, weights, labels)
    if metric is Metric.WEIGHTED_F1:
        weighted: Floats = (counts.f1 * counts.gold).sum(axis=1) / counts.gold.sum(axis=1)
        return weighted
    occurring = (counts.gold + counts.predicted > 0).sum(axis=1)
    macro: Floats = counts.f1.sum(axis=1) / occurring
    return macro


def classification_score(metric: Metric, gold: Ints, predicted: Ints, labels: int) -> float:
    """Compute ``metric`` over all examples; arguments as for `label_counts`."""
    return float(classification_scores(metric, gold, predicted, np.ones((1, len(gold))), labels)[0])


def _sums_by_label(labels_of: Ints, weights: Floats, labels: int) -> Floats:
    sums = np.zeros((len(weights), labels))
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
