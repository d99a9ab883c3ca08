"""Perplexity and bits per byte, as functions of sums over documents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finetune_api.spec import Metric
from finetune_trainer.evaluate.intervals import ratio_interval
from finetune_trainer.evaluate.metrics import Floats, ratio

LIKELIHOOD = (Metric.PERPLEXITY, Metric.BITS_PER_BYTE)
_LARGEST_EXPONENT = 700.0
"""exp of more is not a number of JSON."""


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of documents; arrays have shape (documents,)."""

    nll: Floats
    """Negative log-likelihood of all scored tokens, in nats."""
    tokens: Floats
    """Scored tokens."""
    bytes: Floats
    """Bytes of the text in UTF-8."""

    def values(self, metric: Metric) -> Floats:
        """The value of each document whose weighted mean makes the metric."""
        return self.nll / self.weights(metric) / (1.0 if metric is Metric.PERPLEXITY else math.log(2))

    def weights(self, metric: Metric) -> Floats:
        return self.tokens if metric is Metric.PERPLEXITY else self.bytes

    def score(self, metric: Metric) -> float:
        """The metric of all documents."""
        mean = np.array([ratio(self.values(metric), self.weights(metric))])
        return float(of_mean(metric, mean)[0])

    def scores(self, metric: Metric) -> Floats:
        """The metric of each document."""
        return of_mean(metric, self.values(metric))


def of_mean(metric: Metric, means: Floats) -> Floats:
    """The metric for weighted means of `Likelihood.values`."""
    return np.exp(np.minimum(means, _LARGEST_EXPONENT)) if metric is Metric.PERPLEXITY else means


def likelihood_interval(metric: Metric, before: Likelihood, after: Likelihood, seed: int) -> tuple[float, float]:
    """Confidence interval of the change of a metric of `LIKELIHOOD`; both have the same documents and weights."""
    return ratio_interval(
        before.values(metric),
        after.values(metric),
        before.weights(metric),
        seed=seed,
        transform=lambda means: of_mean(metric, means),
    )
