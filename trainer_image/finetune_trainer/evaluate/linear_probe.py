"""Logistic regression on standardised features of the frozen base model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics import Bools, Floats, Ints

Features = NDArray[np.float32]

_MAX_ITERATIONS = 300
_TOLERANCE = 1e-3


class Probe(Protocol):
    """A linear probe; each fit starts from the weights of the previous one."""

    def fit(self, strength: float) -> Probe:
        """Fit with scikit-learn's inverse regularisation strength C."""

    def probabilities(self, features: Features) -> Floats:
        """The probability of each label, of shape (examples, labels)."""


class Standardised:
    """Scales features to mean 0 and deviation 1 on the features that it is made of."""

    def __init__(self, features: Features) -> None:
        self._mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = features.std(axis=0, dtype=np.float64).astype(np.float32)
        self._scale = np.where(deviation > 0, deviation, 1).astype(np.float32)

    def __call__(self, features: Features) -> Features:
        standardised: Features = (features - self._mean) / self._scale
        return standardised


class SingleLabelProbe:
    """One label for each example: multinomial logistic regression."""

    def __init__(self, features: Features, gold: Ints, labels: int) -> None:
        from sklearn.linear_model import LogisticRegression

        self._scaled = Standardised(features)
        self._features = self._scaled(features)
        self._gold = gold
        self._labels = labels
        self._present = np.unique(gold)
        self._model = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=_TOLERANCE, warm_start=True)

    def fit(self, strength: float) -> SingleLabelProbe:
        from sklearn.exceptions import ConvergenceWarning

        if len(self._present) > 1:
            self._model.set_params(C=strength)
            with warnings.catch_warnings():
                # Weights that have not converged are evaluated on held-out data like any others.
                warnings.simplefilter("ignore", ConvergenceWarning)
                self._model.fit(self._features, self._gold)
        return self

    def probabilities(self, features: Features) -> Floats:
        found = np.zeros((len(features), self._labels))
        alone = len(self._present) == 1
        found[:, self._present] = 1.0 if alone else self._model.predict_proba(self._scaled(features))
        return found


class MultiLabelProbe:
    """Any number of labels for each example: a logistic regression for each label, one-vs-rest.

    All are fitted together, because their objectives add up: scikit-learn's, one at a time, would take hours for
    hundreds of labels.
    """

    def __init__(self, features: Features, gold: Bools, on_step: Callable[[], None]) -> None:
        self._scaled = Standardised(features)
        self._features = self._scaled(features)
        self._gold = gold.astype(np.float32)
        self._on_step = on_step
        # The last row is the intercepts.
        self._weights = np.zeros((features.shape[1] + 1, gold.shape[1]), np.float64)

    def fit(self, strength: float) -> MultiLabelProbe:
        from scipy.optimize import minimize

        def objective(flat: Floats) -> tuple[float, Floats]:
            """The sum of the losses and of the squared weights / (2 C), as in scikit-learn; and its gradient."""
            weights = flat.reshape(self._weights.shape)
            logits = self._logits(self._features, weights)
            loss = np.logaddexp(0, logits).sum(dtype=np.float64) - (logits * self._gold).sum(dtype=np.float64)
            residual = _sigmoid(logits) - self._gold
            gradient = np.concatenate([self._features.T @ residual, residual.sum(axis=0, keepdims=True)])
            gradient = gradient.astype(np.float64)
            gradient[:-1] += weights[:-1] / strength
            examples = len(self._gold)
            penalty = (weights[:-1] ** 2).sum() / (2 * strength)
            return float(loss + penalty) / examples, gradient.ravel() / examples

        found: Any = minimize(
            objective,
            self._weights.ravel(),
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: self._on_step(),
            options={"maxiter": _MAX_ITERATIONS, "gtol": _TOLERANCE / 10},
        )
        self._weights = found.x.reshape(self._weights.shape)
        return self

    def probabilities(self, features: Features) -> Floats:
        return _sigmoid(self._logits(self._scaled(features), self._weights)).astype(np.float64)

    @staticmethod
    def _logits(features: Features, weights: Floats) -> NDArray[np.float32]:
        single = weights.astype(np.float32)
        logits: NDArray[np.float32] = features @ single[:-1] + single[-1]
        return logits


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.special import expit

    probabilities: NDArray[np.float32] = expit(logits)
    return probabilities
