"""95 % confidence intervals of a change: paired percentile bootstrap over the test examples (Efron 1979).

Paired: each resample uses the same examples for baseline and tuned model, so that the difficulty of an example
cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finetune_api.spec import Metric
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric
from finetune_trainer.evaluate.metrics import Floats, Ints, classification_scores

RESAMPLES = 4000
_PERCENTILES = (2.5, 97.5)
_CELLS_AT_ONCE = 4_000_000  # 32 MB of float64 weights


def classification_interval(
    metric: Metric, gold: Ints, baseline: Ints, tuned: Ints, labels: int, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Confidence interval of tuned - baseline for a classification metric.

    Examples with equal label and predictions are interchangeable, so that resampling the examples is equivalent to a
    multinomial draw of the counts of the (gold, baseline, tuned) combinations.

    Args:
        metric: One of `CLASSIFICATION`.
        gold: True labels, of shape (examples,).
        baseline: Predictions of the baseline, of shape (examples,).
        tuned: Predictions of the tuned model, of shape (examples,).
        labels: Number of labels.
        seed: Seed of the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, in the unit of the metric.
    """
    cells, counts = np.unique(np.stack([gold, baseline, tuned]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    changes = []
    for size in _chunks(resamples, cells.shape[1]):
        weights = generator.multinomial(len(gold), counts / len(gold), size=size).astype(np.float64)
        tuned_scores = classification_scores(metric, cells[0], cells[2], weights, labels)
        changes.append(tuned_scores - classification_scores(metric, cells[0], cells[1], weights, labels))
    return _interval(np.concatenate(changes))


def ratio_interval(
    baseline: Floats,
    tuned: Floats,
    weights: Floats,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    transform: Callable[[Floats], Floats] | None = None,
) -> tuple[float, float]:
    """Confidence interval of tuned - baseline for a weighted mean over examples, or a function of the mean.

    Args:
        baseline: Value of each example for the baseline, of shape (examples,).
        tuned: Value of each example for the tuned model, of shape (examples,).
        weights: Weight of each example, such as its number of tokens, of shape (examples,); at least one is positive.
        seed: Seed of the resamples.
        resamples: Number of resamples.
        transform: Makes the metric of means of shape (resamples,); None if the mean is the metric.

    Returns:
        Lower and upper bound, in the unit of the metric.
    """
    # Examples of weight 0 do not contribute, and a resample of only such examples would have no mean.
    weighted = weights > 0
    difference, before, after = ((values * weights)[weighted] for values in (tuned - baseline, baseline, tuned))
    weights = weights[weighted]
    generator = np.random.default_rng(seed)
    changes = []
    for size in _chunks(resamples, len(weights)):
        indices = generator.integers(0, len(weights), size=(size, len(weights)))
        sums = weights[indices].sum(axis=1)
        if transform is None:
            changes.append(difference[indices].sum(axis=1) / sums)
        else:
            means = (values[indices].sum(axis=1) / sums for values in (before, after))
            first, second = map(transform, means)
            changes.append(second - first)
    return _interval(np.concatenate(changes))


def corpus_interval(
    metric: CorpusMetric, baseline: Ints, tuned: Ints, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Confidence interval of tuned - baseline for a metric of all answers together.

    Args:
        metric: The metric.
        baseline: Statistics of each answer of the baseline, of shape (examples, statistics).
        tuned: Statistics of each answer of the tuned model, of shape (examples, statistics).
        seed: Seed of the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, in the unit of the metric.
    """

    def changes(weights: Ints) -> Floats:
        return metric.scores(weights, tuned) - metric.scores(weights, baseline)

    return weighted_interval(changes, len(baseline), seed=seed, resamples=resamples)


def weighted_interval(
    changes: Callable[[Ints], Floats], examples: int, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Confidence interval of a change that is a function of how often each example occurs.

    Args:
        changes: Returns the change for each resample that has one; its argument is the number of times that each
            example occurs, of shape (resamples, examples).
        examples: Number of examples.
        seed: Seed of the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, in the unit of the change.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        changes(generator.multinomial(examples, np.full(examples, 1 / examples), size=size))
        for size in _chunks(resamples, examples)
    ]
    return _interval(np.concatenate(drawn))


def resampled_interval(
    change: Callable[[Sequence[int]], float], examples: int, *, seed: int, resamples: int
) -> tuple[float, float]:
    """Confidence interval of a change that is a function of the examples, with repetitions.

    Args:
        change: Returns the change for the indices of a resample; one that is not finite, or an OverflowError, does not
            count.
        examples: Number of examples.
        seed: Seed of the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound, in the unit of the change.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        try:
            value = change(generator.integers(0, examples, size=examples).tolist())
        except OverflowError:
            continue
        if math.isfinite(value):
            found.append(value)
    return _interval(np.array(found))


def _chunks(resamples: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _interval(changes: Floats) -> tuple[float, float]:
    low, high = np.percentile(changes, _PERCENTILES)
    return float(low), float(high)
