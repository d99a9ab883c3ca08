"""95 % intervals of a change: paired percentile bootstrap over the test examples (Efron 1979).

Paired: each resample takes the same examples for baseline and tuned model, so that what both find hard cancels out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetune_api.spec import Metric
from finetune_trainer.evaluate.metrics import Floats, Ints, classification_scores

RESAMPLES = 4000
_PERCENTILES = (2.5, 97.5)
_CELLS_AT_ONCE = 4_000_000  # 32 MB of counts


def classification_interval(
    metric: Metric, gold: Ints, baseline: Ints, tuned: Ints, labels: int, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The interval of tuned - baseline of a classification metric.

    Examples with the same label and predictions are alike, so their counts are drawn together: a multinomial over the
    (gold, baseline, tuned) cells is the bootstrap over the examples.

    Args:
        metric: One of accuracy, macro_f1, weighted_f1.
        gold: True labels, (examples,).
        baseline: Predictions of the baseline, (examples,).
        tuned: Predictions of the tuned model, (examples,).
        labels: Number of labels.
        seed: Seed of the resamples.
        resamples: Number of resamples.
    """
    cells, counts = np.unique(np.stack([gold, baseline, tuned]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    changes = []
    for size in _chunks(resamples, cells.shape[1]):
        weights = generator.multinomial(len(gold), counts / len(gold), size=size).astype(np.float64)
        of_tuned = classification_scores(metric, cells[0], cells[2], weights, labels)
        changes.append(of_tuned - classification_scores(metric, cells[0], cells[1], weights, labels))
    return _interval(np.concatenate(changes))


def ratio_interval(
    baseline: Floats, tuned: Floats, weights: Floats, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The interval of tuned - baseline of a weighted mean over examples.

    Args:
        baseline: Value of each example for the baseline, (examples,).
        tuned: Value of each example for the tuned model, (examples,).
        weights: Weight of each example, such as its tokens; above 0 for some, (examples,).
        seed: Seed of the resamples.
        resamples: Number of resamples.
    """
    # An example of weight 0 says nothing, and a resample of nothing else would have no mean.
    told = weights > 0
    weights, difference = weights[told], ((tuned - baseline) * weights)[told]
    generator = np.random.default_rng(seed)
    changes = []
    for size in _chunks(resamples, len(weights)):
        drawn = generator.integers(0, len(weights), size=(size, len(weights)))
        changes.append(difference[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    return _interval(np.concatenate(changes))


def _chunks(resamples: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _interval(changes: Floats) -> tuple[float, float]:
    low, high = np.percentile(changes, _PERCENTILES)
    return float(low), float(high)
