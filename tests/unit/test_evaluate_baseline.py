"""The classification baseline: linear probe or majority class, chosen without the test split."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from finetune_api.evaluation import BaselineKind
from finetune_trainer.evaluate.baseline import Labelled, choose, sample


def _split(examples: int, seed: int, signal: float, weights: tuple[float, ...] = (0.4, 0.3, 0.3)) -> Labelled:
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(weights), size=examples, p=weights)
    features = generator.normal(size=(examples, 8)).astype(np.float32)
    features[:, : len(weights)] += signal * np.eye(len(weights), dtype=np.float32)[labels]
    # Dimensions of hidden states of language models differ in scale by orders of magnitude.
    features *= np.array([1e3, 1, 1e-3, 50, 1, 1, 1, 1], dtype=np.float32)
    return Labelled(features, labels)


@pytest.mark.parametrize("validation", [400, 20])
def test_probe_is_chosen_if_features_predict_the_label(validation: int) -> None:
    test = _split(300, 3, 4.0)
    chosen = choose(_split(600, 1, 4.0), _split(validation, 2, 4.0), test.features, seed=1)
    assert chosen.kind is BaselineKind.LINEAR_PROBE
    assert np.mean(chosen.predictions == test.labels) > 0.95
    held_out = "on the validation split" if validation >= 100 else "in cross-validation"
    assert chosen.details["chosenBy"] == f"accuracy {held_out}"
    assert chosen.details["linearProbe"]["trainExamples"] == 600


def test_more_accurate_of_probe_and_majority_class_is_chosen_for_uninformative_features() -> None:
    skewed = (0.9, 0.05, 0.05)
    test = _split(50, 3, 0.0, skewed)
    chosen = choose(_split(60, 1, 0.0, skewed), _split(400, 2, 0.0, skewed), test.features, seed=1)
    if chosen.kind is BaselineKind.MAJORITY_CLASS:
        assert set(chosen.predictions) == {0}
    details = chosen.details
    better = details["linearProbe"]["accuracy"] >= details["majorityClass"]["accuracy"]
    assert (chosen.kind is BaselineKind.LINEAR_PROBE) is better


def test_majority_class_is_chosen_if_train_has_one_label() -> None:
    train = Labelled(np.ones((5, 2), dtype=np.float32), np.full(5, 2))
    chosen = choose(train, Labelled(np.ones((0, 2), dtype=np.float32), np.empty(0, np.int64)), np.ones((3, 2)), seed=1)
    assert chosen.kind is BaselineKind.MAJORITY_CLASS
    assert list(chosen.predictions) == [2, 2, 2]


def test_two_training_examples_are_enough() -> None:
    train = Labelled(np.array([[0.0], [1.0]], dtype=np.float32), np.array([0, 1]))
    empty = Labelled(np.empty((0, 1), dtype=np.float32), np.empty(0, np.int64))
    assert len(choose(train, empty, np.zeros((4, 1), dtype=np.float32), seed=1).predictions) == 4


def test_every_fit_is_reported() -> None:
    fits: list[int] = []
    choose(_split(100, 1, 1.0), _split(100, 2, 1.0), _split(10, 3, 1.0).features, 1, on_fit=lambda: fits.append(1))
    assert len(fits) >= 3


def test_sample_is_seeded_sorted_and_bounded() -> None:
    assert list(sample(5, seed=1, limit=10)) == [0, 1, 2, 3, 4]
    drawn = sample(1000, seed=1, limit=100)
    assert len(set(drawn)) == 100
    assert list(drawn) == sorted(drawn)
    assert list(drawn) == list(sample(1000, seed=1, limit=100))
    assert list(drawn) != list(sample(1000, seed=2, limit=100))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 1], [0, 0, 0, 1, 2], [0] * 20 + [1], [1, 1, 0, 0, 2, 2]])
def test_cross_validation_accepts_labels_with_fewer_members_than_folds(labels: list[int]) -> None:
    train = Labelled(np.arange(len(labels), dtype=np.float32)[:, None], np.array(labels))
    no_validation = Labelled(np.empty((0, 1), np.float32), np.empty(0, np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = choose(train, no_validation, np.zeros((4, 1), np.float32), seed=1)
    assert len(chosen.predictions) == 4
    majority = np.bincount(labels).max() / len(labels)
    assert chosen.details["majorityClass"]["accuracy"] == pytest.approx(majority)
