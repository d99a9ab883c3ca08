"""Metrics of probabilities: the area under the ROC curve, and the expected calibration error."""

from __future__ import annotations

import numpy as np

from finetune_trainer.evaluate.metrics import Bools, Floats, Ints

BINS = 15


def auroc(gold: Bools, probabilities: Floats, weights: Floats) -> Floats:
    """Macro one-vs-rest AUROC, for each weighting of the examples.

    As in ``sklearn.metrics.roc_auc_score``, equal probabilities count half. A label that all or none of the examples
    with a positive weight have has no area, and is left out of the mean.

    Args:
        gold: Whether each example has each label, of shape (examples, labels).
        probabilities: Of the same shape.
        weights: Weight of each example, of shape (weightings, examples).

    Returns:
        Areas from 0 to 1, of shape (weightings,); NaN where no label has one.
    """
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for label in range(gold.shape[1]):
        has = gold[:, label]
        if has.all() or not has.any():
            continue
        area = _area(has, probabilities[:, label], weights)
        defined = ~np.isnan(area)
        total[defined] += area[defined]
        count += defined
    with np.errstate(invalid="ignore"):
        areas: Floats = total / count
    return areas


def _area(has: Bools, probabilities: Floats, weights: Floats) -> Floats:
    """The AUROC of one label for each weighting; NaN without examples of both kinds."""
    order = np.argsort(probabilities, kind="stable")
    _, ties = np.unique(probabilities[order], return_index=True)
    ordered = weights[:, order]
    positive = np.add.reduceat(ordered * has[order], ties, axis=1)
    negative = np.add.reduceat(ordered * ~has[order], ties, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore"):
        area: Floats = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return area


def measurable_labels(gold: Bools) -> Ints:
    """Indices of the labels that some of the examples have and some do not: those that have an AUROC."""
    present = gold.sum(axis=0)
    return np.flatnonzero((present > 0) & (present < len(gold)))


def calibration_error(right: Bools, confidences: Floats, weights: Floats) -> Floats:
    """Expected calibration error (Guo et al. 2017): bins of equal width that contain their upper bound.

    Args:
        right: Whether each prediction is right, of shape (examples,).
        confidences: Probability of each predicted label, of shape (examples,).
        weights: Weight of each example, of shape (weightings, examples).

    Returns:
        Mean absolute differences of confidence and accuracy, of shape (weightings,).
    """
    bins = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    differences = np.zeros((len(right), BINS))
    differences[np.arange(len(right)), bins] = right - confidences
    error: Floats = np.abs(weights @ differences).sum(axis=1) / weights.sum(axis=1)
    return error
