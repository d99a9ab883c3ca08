"""The baseline of a classifier: what the untouched model's features, or the label counts alone, already give.

Which of the two stands beside the tuned model, and how strongly the probe is regularised, is decided on data
that is not the test split.
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
"""Most training examples that the probe is fitted on, to bound its time."""

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C, scikit-learn's inverse strength, that the probe is tried with, on standardised features."""

_MIN_VALIDATION = 100
_FOLDS = 3
_MAX_ITERATIONS = 300
_PATIENCE = 2


@dataclass(frozen=True)
class Labelled:
    """Features (examples, width) and labels (examples,) of a split."""

    features: Features
    labels: Ints


@dataclass(frozen=True)
class ClassifierBaseline:
    """The chosen baseline: its predictions on the test split and how it was chosen."""

    kind: BaselineKind
    predictions: Ints
    details: dict[str, Any]


def sample(examples: int, seed: int, limit: int = PROBE_EXAMPLES) -> Ints:
    """Indices, sorted, of the training examples that the probe is fitted on: all, or ``limit`` drawn by ``seed``."""
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
    """The better of the majority class and a linear probe, by accuracy on data that neither was fitted on.

    That is the validation split when it has at least 100 examples, else cross-validation in three folds over train.

    Args:
        train: What the probe is fitted on.
        validation: What it is chosen on, when large enough.
        test: Features of the test split, (examples, width).
        seed: Seed of the folds.
        on_fit: Called after each fit, as a sign of life.
    """
    majority = int(np.bincount(train.labels).argmax())
    constant = np.full(len(test), majority)
    if len(np.unique(train.labels)) < 2:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, {"majorityClass": {"label": majority}})
    folds = list(_folds(train, validation, seed))
    of_majority = float(np.mean(np.concatenate([held.labels for _, held in folds]) == majority))
    large = len(validation.labels) >= _MIN_VALIDATION
    details: dict[str, Any] = {
        "chosenBy": "accuracy on the validation split" if large else "accuracy in cross-validation",
        "majorityClass": {"label": majority, "accuracy": of_majority},
    }
    best, accuracy = _best_regularisation(folds, on_fit)
    details["linearProbe"] = {
        "C": best,
        "accuracy": accuracy,
        "trainExamples": len(train.labels),
        "features": "mean over tokens of the base model's last hidden states, standardised",
    }
    if accuracy < of_majority:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, details)
    predictions = _Probe(train).fit(best).predict(test)
    on_fit()
    return ClassifierBaseline(BaselineKind.LINEAR_PROBE, predictions, details)


def _folds(train: Labelled, validation: Labelled, seed: int) -> Iterator[tuple[Labelled, Labelled]]:
    """Pairs of what is fitted on and what is held out."""
    if len(validation.labels) >= _MIN_VALIDATION:
        yield train, validation
        return
    from sklearn.model_selection import KFold, StratifiedKFold

    # StratifiedKFold needs one label with a member for each fold.
    stratified = np.bincount(train.labels).max() >= _FOLDS
    splitter = StratifiedKFold if stratified else KFold
    folds = splitter(min(_FOLDS, len(train.labels)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A label with fewer members than folds is absent from some validation folds; the accuracy is that of all folds.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        indices = list(folds.split(train.features, train.labels))
    for fitted, held in indices:
        yield _rows(train, fitted), _rows(train, held)


def _rows(split: Labelled, indices: Ints) -> Labelled:
    return Labelled(split.features[indices], split.labels[indices])


def _best_regularisation(folds: list[tuple[Labelled, Labelled]], on_fit: Callable[[], None]) -> tuple[float, float]:
    """The C of the highest held-out accuracy, and that accuracy. Stops when two values in a row were no better."""
    probes = [(_Probe(fitted), held) for fitted, held in folds]
    examples = sum(len(held.labels) for _, held in folds)
    best, best_accuracy, worse = REGULARISATION[0], -1.0, 0
    for strength in REGULARISATION:
        hits = 0
        for probe, held in probes:
            hits += int((probe.fit(strength).predict(held.features) == held.labels).sum())
            on_fit()
        accuracy = hits / examples
        if accuracy > best_accuracy:
            best, best_accuracy, worse = strength, accuracy, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    return best, best_accuracy


class _Probe:
    """Logistic regression on standardised features; every fit starts from the last one's weights."""

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
                # Weights that have not settled are judged on held-out data like any others.
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
