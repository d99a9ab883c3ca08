"""The baseline of a classifier: a linear probe on features of the base model, or the majority class.

The choice between the two and the regularisation of the probe use validation data, never the test split.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_api.evaluation import BaselineKind
from finetune_api.spec import Metric
from finetune_trainer.evaluate.classification import THRESHOLD, Classified
from finetune_trainer.evaluate.linear_probe import Features, MultiLabelProbe, Probe, SingleLabelProbe
from finetune_trainer.evaluate.metrics import Floats, Ints, Labels, multi_label_scores

PROBE_EXAMPLES = 20_000
"""Maximum number of training examples of the probe, which limits its fitting time."""

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidate values of C, scikit-learn's inverse regularisation strength, for standardised features."""

_MIN_VALIDATION = 100
_FOLDS = 3
_PATIENCE = 2


@dataclass(frozen=True)
class Labelled:
    """A split: its features of shape (examples, width), and its labels."""

    features: Features
    labels: Labels
    """The label of each example, of shape (examples,), or whether it has each label, of shape (examples, labels)."""


@dataclass(frozen=True)
class ClassifierBaseline:
    """The chosen baseline: its output on the test split, and details of the choice."""

    kind: BaselineKind
    output: Classified
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
    labels: int,
    *,
    seed: int,
    on_fit: Callable[[], None] = lambda: None,
) -> ClassifierBaseline:
    """Choose the majority class or a linear probe, whichever has the higher score on held-out data.

    The score is the accuracy, or micro F1 if an example has any number of labels. The held-out data is the validation
    split if it has at least 100 examples, otherwise that of 3-fold cross-validation on the training data.

    Args:
        train: Training data of the probe.
        validation: The validation split.
        test: Features of the test split, of shape (examples, width).
        labels: Number of labels.
        seed: Seed of the folds.
        on_fit: Called after each fit or during it, to report progress.
    """
    rates = _rates(train.labels, labels)
    majority = {"majorityClass": _majority(rates, multiple=train.labels.ndim == 2)}
    constant = _classified(np.tile(rates, (len(test), 1)), train.labels)
    if train.labels.ndim == 1 and len(np.unique(train.labels)) < 2:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, majority)
    folds = list(_folds(train, validation, seed))
    held_out = np.concatenate([held_out.labels for _, held_out in folds])
    score, name = score_of(held_out)
    majority_score = score(_classified(np.tile(rates, (len(held_out), 1)), held_out), held_out)
    majority["majorityClass"] |= {name: majority_score}
    large = len(validation.labels) >= _MIN_VALIDATION
    best, probe_score = _best_regularisation(folds, labels, on_fit)
    details = {
        "chosenBy": f"{WORDS[name]} {'on the validation split' if large else 'in cross-validation'}",
        **majority,
        "linearProbe": {
            "C": best,
            name: probe_score,
            "trainExamples": len(train.labels),
            "features": "mean over tokens of the base model's last hidden states, standardised",
        },
    }
    if probe_score < majority_score:
        return ClassifierBaseline(BaselineKind.MAJORITY_CLASS, constant, details)
    found = _probe(train, labels, on_fit).fit(best).probabilities(test)
    on_fit()
    return ClassifierBaseline(BaselineKind.LINEAR_PROBE, _classified(found, train.labels), details)


WORDS = {"accuracy": "accuracy", "microF1": "micro F1"}


def _rates(gold: Labels, labels: int) -> Floats:
    """The share of the training examples with each label, of shape (labels,): the probabilities of the baseline."""
    counts = gold.sum(axis=0) if gold.ndim == 2 else np.bincount(gold, minlength=labels)
    rates: Floats = counts / len(gold)
    return rates


def _majority(rates: Floats, *, multiple: bool) -> dict[str, Any]:
    if multiple:
        return {"labels": np.flatnonzero(rates >= THRESHOLD).tolist()}
    return {"label": int(rates.argmax())}


def _classified(probabilities: Floats, like: Labels) -> Classified:
    return Classified.multiple(probabilities) if like.ndim == 2 else Classified.single(probabilities)


def score_of(gold: Labels) -> tuple[Callable[[Classified, Labels], float], str]:
    """The score by which the baseline is chosen, and its name."""
    if gold.ndim == 1:
        return lambda output, gold: float(np.mean(output.predicted == gold)), "accuracy"
    return _micro_f1, "microF1"


def _micro_f1(output: Classified, gold: Labels) -> float:
    return float(multi_label_scores(Metric.MICRO_F1, gold, output.predicted, np.ones((1, len(gold))))[0])


def _probe(train: Labelled, labels: int, on_step: Callable[[], None]) -> Probe:
    if train.labels.ndim == 2:
        return MultiLabelProbe(train.features, train.labels, on_step)
    return SingleLabelProbe(train.features, train.labels, labels)


def _folds(train: Labelled, validation: Labelled, seed: int) -> Iterator[tuple[Labelled, Labelled]]:
    """Pairs of training and held-out data."""
    if len(validation.labels) >= _MIN_VALIDATION:
        yield train, validation
        return
    from sklearn.model_selection import KFold, StratifiedKFold

    # StratifiedKFold requires one label for each example, and at least one with as many members as folds.
    stratified = train.labels.ndim == 1 and np.bincount(train.labels).max() >= _FOLDS
    splitter = StratifiedKFold if stratified else KFold
    folds = splitter(min(_FOLDS, len(train.labels)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Labels may be absent from some held-out folds, because the score is computed over all folds together.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        indices = list(folds.split(train.features, train.labels))
    for fitted, held_out in indices:
        yield _rows(train, fitted), _rows(train, held_out)


def _rows(split: Labelled, indices: Ints) -> Labelled:
    return Labelled(split.features[indices], split.labels[indices])


def _best_regularisation(
    folds: list[tuple[Labelled, Labelled]], labels: int, on_fit: Callable[[], None]
) -> tuple[float, float]:
    """The C with the highest held-out score, and that score; stops after two values without improvement."""
    probes = [(_probe(fitted, labels, on_fit), held_out) for fitted, held_out in folds]
    gold = np.concatenate([held_out.labels for _, held_out in folds])
    score, _ = score_of(gold)
    best, best_score, worse = REGULARISATION[0], -1.0, 0
    for strength in REGULARISATION:
        found = []
        for probe, held_out in probes:
            found.append(probe.fit(strength).probabilities(held_out.features))
            on_fit()
        reached = score(_classified(np.concatenate(found), gold), gold)
        if reached > best_score:
            best, best_score, worse = strength, reached, 0
        else:
            worse += 1
            if worse == _PATIENCE:
                break
    return best, best_score
