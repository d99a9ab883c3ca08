"""Metrics of a task of lm-eval for both models, with the interval of the change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_api.evaluation import MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import HarnessMetric
from finetune_trainer.evaluate.intervals import RESAMPLES, ratio_interval, resampled_interval

RESAMPLES_OF_OTHERS = 400
RESAMPLES_OF_TEXTS = 200
"""lm-eval computes these metrics again for each resample: those of texts, such as BLEU, take up to a second."""

Values = Mapping[int, Any]
"""The value of each example, by its number; not a number where the metric is no mean."""


def paired_result(
    name: HarnessMetric,
    baseline: Values,
    tuned: Values,
    aggregate: Callable[[Sequence[Any]], float],
    *,
    mean: bool,
    higher_is_better: bool,
    seed: int,
    on_resample: Callable[[], None] = lambda: None,
) -> MetricResult:
    """The metric of both models.

    Args:
        name: Name of the metric.
        baseline: The values of the base model.
        tuned: Those of the tuned model.
        aggregate: Makes the metric from the values of all examples.
        mean: Whether it is their mean.
        higher_is_better: Whether a larger value is better.
        seed: Seed of the resamples.
        on_resample: Called after each slow resample.

    Raises:
        StageFailure: InternalError when the models were measured on different examples; Diverged when a value is not
            finite.
    """
    if baseline.keys() != tuned.keys() or not tuned:
        raise StageFailure(
            Reason.INTERNAL_ERROR, f"lm-eval measured {name} of both models on different examples; report this"
        )
    before, after = ([values[key] for key in sorted(values)] for values in (baseline, tuned))
    first, second = (
        _finite(name, model, aggregate, of_model) for model, of_model in (("base", before), ("tuned", after))
    )
    if mean:
        interval = ratio_interval(np.array(before, float), np.array(after, float), np.ones(len(after)), seed=seed)
    else:

        def change(rows: Sequence[int]) -> float:
            on_resample()
            return float(aggregate([after[row] for row in rows])) - float(aggregate([before[row] for row in rows]))

        interval = resampled_interval(change, len(after), seed=seed, resamples=resamples_of(after, mean))
    return MetricResult(
        name=name,
        baseline=first,
        tuned=second,
        change=second - first,
        interval=interval,
        higher_is_better=higher_is_better,
    )


def resamples_of(values: Sequence[Any], mean: bool) -> int:
    """The number of resamples of an interval."""
    if mean:
        return RESAMPLES
    first = values[0]
    has_text = isinstance(first, list | tuple) and any(isinstance(part, str | list) for part in first)
    return RESAMPLES_OF_TEXTS if has_text else RESAMPLES_OF_OTHERS


def _finite(
    name: HarnessMetric, model: str, aggregate: Callable[[Sequence[Any]], float], values: Sequence[Any]
) -> float:
    try:
        found = float(aggregate(values))
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise StageFailure(Reason.DIVERGED, f"{name} of the {model} model is not finite; lower training.learningRate")
    return found
