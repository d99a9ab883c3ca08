"""Metrics of log-probabilities and rewards, as functions of how often each test example occurs.

Ties count neither way: a share is that of the pairs without them, and 0.5 if all pairs are ties. Numbers that differ by
rounding only are ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.comparison import reward_result
from finetune_trainer.evaluate.intervals import weighted_interval
from finetune_trainer.evaluate.metrics import Floats, Ints, metric_result
from finetune_trainer.evaluate.probabilities import auroc

ROUNDING = 1e-4
"""Difference of two log-probabilities of answers, in nats, below which they are equal."""
ROUNDING_PER_TOKEN = 1e-6


@dataclass(frozen=True)
class Measured:
    """Log-probabilities of the answers for both models; the first of a pair is the chosen one."""

    baseline: Floats
    """Of shape (examples, answers)."""
    tuned: Floats
    counts: Ints
    """Tokens of each answer, of the same shape."""
    desirable: NDArray[np.bool_] | None
    """Whether each answer is desirable, of shape (examples,); None for pairs."""
    beta: float
    apart: Floats | None = None
    """Those of the model that training started from, if it is not the baseline."""
    against: BaselineKind = BaselineKind.BASE_MODEL
    """What the model is that training started from."""

    @property
    def reference(self) -> Floats:
        """Those of the model that training started from, against which rewards are measured."""
        return self.baseline if self.apart is None else self.apart

    @property
    def defined(self) -> bool:
        """Whether the metrics are: those of single answers need desirable and undesirable ones."""
        return self.desirable is None or bool(self.desirable.any() and not self.desirable.all())

    def take(self, rows: Ints) -> Measured:
        """That of the examples at ``rows``."""
        desirable = None if self.desirable is None else self.desirable[rows]
        apart = None if self.apart is None else self.apart[rows]
        models = self.baseline[rows], self.tuned[rows], self.counts[rows]
        return Measured(*models, desirable, self.beta, apart, self.against)

    @property
    def rewards(self) -> Floats:
        """Of shape (examples, answers)."""
        return self.beta * (self.tuned - self.reference)

    @property
    def margins(self) -> Floats:
        """Reward of the chosen answer, minus that of the rejected one; of shape (examples,)."""
        margins: Floats = self.rewards[:, 0] - self.rewards[:, 1]
        return margins

    def decisions(self, metric: Metric, tuned: bool = True) -> Ints:
        """For each pair 1 if the chosen answer is ahead, -1 if the rejected one is, 0 for a tie."""
        sums = self.tuned if tuned else self.baseline
        if metric is Metric.PREFERRED_PER_TOKEN:
            return _signs(sums / self.counts, ROUNDING_PER_TOKEN)
        return _signs(self.tuned - self.reference if metric is Metric.REWARD_ACCURACY else sums, ROUNDING)

    def results(self, metrics: tuple[Metric, ...], seed: int) -> tuple[MetricResult, ...]:
        """The results of ``metrics``."""
        return tuple(self._result(metric, seed) for metric in metrics)

    def _result(self, metric: Metric, seed: int) -> MetricResult:
        examples = len(self.tuned)
        once = np.ones((1, examples))
        if metric.row.neutral is None:
            before, after = self.decisions(metric, tuned=False), self.decisions(metric)

            def changes(weights: Ints) -> Floats:
                return share(after, weights) - share(before, weights)

            interval = weighted_interval(changes, examples, seed=seed)
            return metric_result(metric, float(share(before, once)[0]), float(share(after, once)[0]), interval)

        def values(weights: Ints) -> Floats:
            found = self._values(metric, weights)
            return found[~np.isnan(found)]  # Resamples without desirable or undesirable answers have none.

        interval = weighted_interval(values, examples, seed=seed)
        return reward_result(metric, float(self._values(metric, once)[0]), interval, self.against)

    def _values(self, metric: Metric, weights: Floats | Ints) -> Floats:
        """A metric of rewards, for each weighting of the examples."""
        if metric is Metric.REWARD_ACCURACY:
            return share(self.decisions(metric), weights)
        if self.desirable is None:
            margin: Floats = weights @ self.margins / weights.sum(axis=1)
            return margin
        rewards = self.rewards[:, 0]
        if metric is Metric.AUROC:
            # Rewards that differ by rounding are equal.
            levels = np.round(rewards / self.beta / ROUNDING)
            return auroc(self.desirable[:, np.newaxis], levels[:, np.newaxis], np.asarray(weights, np.float64))
        good, bad = weights * self.desirable, weights * ~self.desirable
        with np.errstate(invalid="ignore"):
            difference: Floats = good @ rewards / good.sum(axis=1) - bad @ rewards / bad.sum(axis=1)
        return difference


def share(decisions: Ints, weights: Floats | Ints) -> Floats:
    """Share of the pairs whose chosen answer is ahead, without ties.

    Args:
        decisions: 1, -1, or 0 for a tie; of shape (examples,).
        weights: Weight of each example, of shape (weightings, examples).

    Returns:
        Shares of shape (weightings,); 0.5 where all pairs are ties.
    """
    ahead, decided = weights @ (decisions > 0), weights @ (decisions != 0)
    return np.where(decided > 0, ahead / np.maximum(decided, 1e-9), 0.5)


def _signs(values: Floats, rounding: float) -> Ints:
    difference = values[:, 0] - values[:, 1]
    signs: Ints = np.where(np.abs(difference) <= rounding, 0, np.sign(difference)).astype(np.int64)
    return signs
