"""The baseline of a classifier: a linear probe on features of the base model, or the majority class.

The choice between the two and the regularisation of the probe use validation data, never the test split.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluation import BaselineKind
from finetune_trainer.evaluate.metrics import Ints

Features = NDArray[np.float32]

PROBE_EXAMPLES = 20_000
"""Maximum number of training examples of the probe, which limits its fitting time."""

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidate values of C, scikit-learn's inverse regularisation strength, for standardised features."""

_MIN_VALIDATION = 100
_FOLDS = 3
_MAX_ITERATIONS = 300
_PATIENCE = 2


@dataclass(frozen=True)
class Labelled:
    """Features of shape (examples, width) and labels of shape (examples,) of a split."""

    features: Features
    labels: Ints


@dataclass(frozen=True)
class ClassifierBaseline:
    """The chosen baseline: its predictions on the test split, and details of the choice."""

    kind: BaselineKind
    predictions: Ints
    details: dict[str, Any]


def sample(examples: int, seed: int, limit: int = PROBE_EXAMPLES) -> Ints:
    """Sorted indices of the training examples of the probe: all, or a random sample of ``limit`` by ``seed``."""
    if examples <= limit:
        return np.arange(examples)
    return np.sort(np.random.default_rng(seed).choice(examples, limit, replace=False))


def choose(
    train: Labelled,
    validation: Labelled,
    test: Features,
    seed: int,
    on_fit: Callable[[], None] = lambda: None,
) -> ClassifierBaseline:
    """Choose the majority class or a linear probe, whichever has the higher accuracy on held-out data.

    The held-out data is the validation split if it has at least 100 examples, otherwise that of 3-fold
    cross-validation on the training data.

    Args:
        train: Training data of the probe.
        validation: The validation split.
        test: Features of the test split, of shape (examples, width).
        seed: Seed of the folds.
        on_fit: Called after each fit, to report progress.
    """
    majority = int(np.bincount(train.labels).argmax())
    constant = np.full(len(test), majority)
    if len(np.unique(train.labels)) < 2:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, {"majorityClass": {"label": majority}})
    folds = list(_folds(train, validation, seed))
    majority_accuracy = float(np.mean(np.concatenate([held_out.labels for _, held_out in folds]) == majority))
    large = len(validation.labels) >= _MIN_VALIDATION
    details: dict[str, Any] = {
        "chosenBy": "accuracy on the validation split" if large else "accuracy in cross-validation",
        "majorityClass": {"label": majority, "accuracy": majority_accuracy},
    }
    best, accuracy = _best_regularisation(folds, on_fit)
    details["linearProbe"] = {
        "C": best,
        "accuracy": accuracy,
        "trainExamples": len(train.labels),
        "features": "mean over tokens of the base model's last hidden states, standardised",
    }
    if accuracy < majority_accuracy:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, details)
    predictions = _Probe(train).fit(best).predict(test)
    on_fit()
    return ClassifierBaseline(BaselineKind.LINEAR_PROBE, predictions, details)


def _folds(train: Labelled, validation: Labelled, seed: int) -> Iterator[tuple[Labelled, Labelled]]:
    """Pairs of training and held-out data."""
    if len(validation.labels) >= _MIN_VALIDATION:
        yield train, validation
        return
    from sklearn.model_selection import KFold, StratifiedKFold

    # StratifiedKFold requires at least one label with as many members as folds.
    stratified = np.bincount(train.labels).max() >= _FOLDS
    splitter = StratifiedKFold if stratified else KFold
    folds = splitter(min(_FOLDS, len(train.labels)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Labels may be absent from some held-out folds, because the accuracy is computed over all folds together.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        indices = list(folds.split(train.features, train.labels))
    for fitted, held_out in indices:
        yield _rows(train, fitted), _rows(train, held_out)


def _rows(split: Labelled, indices: Ints) -> Labelled:
    return Labelled(split.features[indices], split.labels[indices])


def _best_regularisation(folds: list[tuple[Labelled, Labelled]], on_fit: Callable[[], None]) -> tuple[float, float]:
    """The C with the highest held-out accuracy, and that accuracy; stops after two values without improvement."""
    probes = [(_Probe(fitted), held_out) for fitted, held_out in folds]
    examples = sum(len(held_out.labels) for _, held_out in folds)
    best, best_accuracy, worse = REGULARISATION[0], -1.0, 0
    for strength in REGULARISATION:
        correct = 0
        for probe, held_out in probes:
            correct += int((probe.fit(strength).predict(held_out.features) == held_out.labels).sum())
            on_fit()
        accuracy = correct / examples
        if accuracy > best_accuracy:
            best, best_accuracy, worse = strength, accuracy, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    return best, best_accuracy


class _Probe:
    """Logistic regression on standardised features; each fit starts from the weights of the previous one."""

    def __init__(self, train: Labelled) -> None:
        from sklearn.linear_model import LogisticRegression

        self._mean = train.features.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = train.features.std(axis=0, dtype=np.float64).astype(np.float32)
        self._scale = np.where(deviation > 0, deviation, 1).astype(np.float32)
        self._features = self._standardised(train.features)
        self._labels = train.labels
        self._constant = int(train.labels[0]) if len(np.unique(train.labels)) < 2 else None
        self._model = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=1e-3, warm_start=True)

    def fit(self, strength: float) -> _Probe:
        from sklearn.exceptions import ConvergenceWarning

        if self._constant is None:
            self._model.set_params(C=strength)
            with warnings.catch_warnings():
                # Weights that have not converged are evaluated on held-out data like any others.
                warnings.simplefilter("ignore", ConvergenceWarning)
                self._model.fit(self._features, self._labels)
        return self

    def predict(self, features: Features) -> Ints:
        if self._constant is not None:
            return np.full(len(features), self._constant)
        return np.asarray(self._model.predict(self._standardised(features)), dtype=np.int64)

    def _standardised(self, features: Features) -> Features:
        standardised: Features = (features - self._mean) / self._scale
        return standardised
