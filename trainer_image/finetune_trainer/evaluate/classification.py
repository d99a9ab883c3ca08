"""The metrics of a classifier and its baseline on the same examples, with one label each or any number of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluation import MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.intervals import RESAMPLES, classification_interval, weighted_interval
from finetune_trainer.evaluate.metrics import (
    NO_LABEL,
    Bools,
    Floats,
    Ints,
    LabelCounts,
    Labels,
    classification_score,
    label_counts,
    metric_result,
    multi_label_counts,
    multi_label_scores,
)
from finetune_trainer.evaluate.probabilities import auroc, calibration_error

THRESHOLD = 0.5
"""With task.multiLabel, the smallest probability from which a label is predicted."""

_FEWEST_RESAMPLES = 400
_CELLS = 400_000_000
"""Elements that all resamples of the AUROC go through together, which limits its time."""


@dataclass(frozen=True)
class Classified:
    """The output of a model."""

    probabilities: NDArray[Any]
    """Of each label, of shape (examples, labels)."""
    predicted: Labels
    """The predicted label of shape (examples,), or whether each label is predicted, of shape (examples, labels)."""

    @classmethod
    def single(cls, probabilities: NDArray[Any]) -> Classified:
        """One label for each example: the first of the most probable ones."""
        return cls(probabilities, probabilities.argmax(axis=1))

    @classmethod
    def single_or_none(cls, probabilities: NDArray[Any]) -> Classified:
        """As `single`, but `NO_LABEL` for an example without a probability."""
        predicted = np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), NO_LABEL)
        return cls(probabilities, predicted)

    @classmethod
    def multiple(cls, probabilities: NDArray[Any]) -> Classified:
        """Any number of labels for each example: all with a probability of at least `THRESHOLD`."""
        return cls(probabilities, probabilities >= THRESHOLD)

    def take(self, rows: Ints) -> Classified:
        return Classified(self.probabilities[rows], self.predicted[rows])

    @property
    def confidences(self) -> Floats:
        """The probability of the predicted label, of shape (examples,)."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted].astype(np.float64)


def compared(
    metric: Metric, gold: Labels, baseline: Classified, tuned: Classified, *, labels: int, seed: int
) -> MetricResult | None:
    """The result of a metric; None if the examples do not define it: the AUROC of examples of one label.

    Args:
        metric: A metric of TextClassification.
        gold: The true labels, in the form of `Classified.predicted`.
        baseline: The output of the baseline.
        tuned: The output of the tuned model.
        labels: Number of labels.
        seed: Seed of the resamples.
    """
    if gold.ndim == 1 and metric not in (Metric.AUROC, Metric.ECE):
        both = [classification_score(metric, gold, model.predicted, labels) for model in (baseline, tuned)]
        interval = classification_interval(metric, gold, baseline.predicted, tuned.predicted, labels, seed=seed)
        return metric_result(metric, both[0], both[1], interval)

    def scores(weights: NDArray[Any]) -> tuple[Floats, Floats]:
        before, after = (_scores(metric, gold, model, weights, labels) for model in (baseline, tuned))
        return before, after

    of_baseline, of_tuned = (float(values[0]) for values in scores(np.ones((1, len(gold)))))
    if np.isnan(of_baseline):
        return None

    def changes(weights: Ints) -> Floats:
        before, after = scores(weights)
        found = after - before
        # A resample without examples of two labels has no AUROC.
        return found[~np.isnan(found)]

    resamples = RESAMPLES
    if metric is Metric.AUROC:
        resamples = int(np.clip(_CELLS // (len(gold) * labels), _FEWEST_RESAMPLES, RESAMPLES))
    interval = weighted_interval(changes, len(gold), seed=seed, resamples=resamples)
    return metric_result(metric, of_baseline, of_tuned, interval)


def score_of(metric: Metric, gold: Labels, output: Classified, labels: int) -> float | None:
    """A metric of one output; None if the examples do not define it."""
    if gold.ndim == 1 and metric not in (Metric.AUROC, Metric.ECE):
        return classification_score(metric, gold, output.predicted, labels)
    value = float(_scores(metric, gold, output, np.ones((1, len(gold))), labels)[0])
    return None if np.isnan(value) else value


def _scores(metric: Metric, gold: Labels, model: Classified, weights: NDArray[Any], labels: int) -> Floats:
    if metric is Metric.AUROC:
        return auroc(one_hot(gold, labels), model.probabilities, weights)
    if metric is Metric.ECE:
        return calibration_error(gold == model.predicted, model.confidences, weights)
    return multi_label_scores(metric, gold, model.predicted, weights)


def one_hot(gold: Labels, labels: int) -> Bools:
    """Whether each example has each label, of shape (examples, labels)."""
    return gold if gold.ndim == 2 else gold[:, None] == np.arange(labels)


def counts_by_label(gold: Labels, predicted: Labels, labels: int) -> LabelCounts:
    """The counts of all examples; arrays of shape (1, labels)."""
    weights = np.ones((1, len(gold)))
    if gold.ndim == 2:
        return multi_label_counts(gold, predicted, weights)
    return label_counts(gold, predicted, weights, labels)
