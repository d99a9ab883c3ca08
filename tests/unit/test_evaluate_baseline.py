"""The classification baseline: linear probe or majority class, chosen without the test split."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune_api.evaluation import BaselineKind
from finetune_trainer.evaluate.baseline import Labelled, choose, sample
from finetune_trainer.evaluate.linear_probe import MultiLabelProbe, Standardised


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
    chosen = choose(_split(600, 1, 4.0), _split(validation, 2, 4.0), test.features, 3, seed=1)
    assert chosen.kind is BaselineKind.LINEAR_PROBE
    assert np.mean(chosen.output.predicted == test.labels) > 0.95
    held_out = "on the validation split" if validation >= 100 else "in cross-validation"
    assert chosen.details["chosenBy"] == f"accuracy {held_out}"
    assert chosen.details["linearProbe"]["trainExamples"] == 600


def test_more_accurate_of_probe_and_majority_class_is_chosen_for_uninformative_features() -> None:
    skewed = (0.9, 0.05, 0.05)
    test = _split(50, 3, 0.0, skewed)
    chosen = choose(_split(60, 1, 0.0, skewed), _split(400, 2, 0.0, skewed), test.features, 3, seed=1)
    if chosen.kind is BaselineKind.MAJORITY_CLASS:
        assert set(chosen.output.predicted) == {0}
    details = chosen.details
    better = details["linearProbe"]["accuracy"] >= details["majorityClass"]["accuracy"]
    assert (chosen.kind is BaselineKind.LINEAR_PROBE) is better


def test_majority_class_is_chosen_if_train_has_one_label() -> None:
    train = Labelled(np.ones((5, 2), dtype=np.float32), np.full(5, 2))
    chosen = choose(
        train, Labelled(np.ones((0, 2), dtype=np.float32), np.empty(0, np.int64)), np.ones((3, 2)), 3, seed=1
    )
    assert chosen.kind is BaselineKind.MAJORITY_CLASS
    assert list(chosen.output.predicted) == [2, 2, 2]


def test_two_training_examples_are_enough() -> None:
    train = Labelled(np.array([[0.0], [1.0]], dtype=np.float32), np.array([0, 1]))
    empty = Labelled(np.empty((0, 1), dtype=np.float32), np.empty(0, np.int64))
    assert len(choose(train, empty, np.zeros((4, 1), dtype=np.float32), 2, seed=1).output.predicted) == 4


def test_every_fit_is_reported() -> None:
    fits: list[int] = []
    choose(
        _split(100, 1, 1.0), _split(100, 2, 1.0), _split(10, 3, 1.0).features, 3, seed=1, on_fit=lambda: fits.append(1)
    )
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
        chosen = choose(train, no_validation, np.zeros((4, 1), np.float32), 3, seed=1)
    assert len(chosen.output.predicted) == 4
    majority = np.bincount(labels).max() / len(labels)
    assert chosen.details["majorityClass"]["accuracy"] == pytest.approx(majority)


def test_probabilities_of_the_majority_class_are_the_shares_of_the_labels() -> None:
    train, validation = _split(60, 1, 4.0), _split(400, 2, 4.0)
    misled = Labelled(validation.features * 50, np.full(400, np.bincount(train.labels).argmax()))
    chosen = choose(train, misled, _split(50, 3, 0.0).features, 3, seed=2)
    assert chosen.kind is BaselineKind.MAJORITY_CLASS
    shares = np.bincount(train.labels, minlength=3) / 60
    assert chosen.output.probabilities == pytest.approx(np.tile(shares, (50, 1)))


def _lists(examples: int, seed: int, signal: float) -> Labelled:
    """Examples with any number of three labels, each with a dimension of its own."""
    generator = np.random.default_rng(seed)
    labels = generator.random((examples, 3)) < 0.35
    features = generator.normal(size=(examples, 6)).astype(np.float32)
    features[:, :3] += signal * labels
    return Labelled(features * np.array([100, 1, 0.01, 1, 1, 1], np.float32), labels)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_probe_of_label_lists_equals_scikit_learns_one_vs_rest(strength: float) -> None:
    train, test, steps = _lists(200, 1, 2.0), _lists(20, 2, 2.0), []
    probe = MultiLabelProbe(train.features, train.labels, lambda: steps.append(1))
    found = probe.fit(strength).probabilities(test.features)
    scaled = Standardised(train.features)
    for label in range(3):
        model = LogisticRegression(C=strength, tol=1e-6, max_iter=1000).fit(
            scaled(train.features), train.labels[:, label]
        )
        assert found[:, label] == pytest.approx(model.predict_proba(scaled(test.features))[:, 1], abs=2e-3)
    assert steps


@pytest.mark.parametrize("validation", [300, 20])
def test_probe_of_label_lists_is_chosen_if_features_predict_them(validation: int) -> None:
    test = _lists(100, 3, 5.0)
    chosen = choose(_lists(300, 1, 5.0), _lists(validation, 2, 5.0), test.features, 3, seed=1)
    assert chosen.kind is BaselineKind.LINEAR_PROBE
    assert np.mean(chosen.output.predicted == test.labels) > 0.95
    assert chosen.details["chosenBy"].startswith("micro F1")


def test_majority_of_label_lists_is_the_labels_of_half_of_the_rows() -> None:
    labels = np.tile([True, True, False], (40, 1))
    labels[0] = [True, False, True]
    noise = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    held_out = Labelled(np.zeros((0, 2), np.float32), np.zeros((0, 3), np.bool_))
    chosen = choose(Labelled(noise, labels), held_out, np.zeros((2, 2), np.float32), 3, seed=1)
    assert chosen.details["majorityClass"]["labels"] == [0, 1]
    assert chosen.output.predicted.tolist() == [[True, True, False]] * 2


def test_a_label_that_training_lacks_has_the_probability_zero() -> None:
    train = Labelled(np.array([[0.0], [1.0]] * 5, dtype=np.float32), np.array([0, 2] * 5))
    chosen = choose(train, train, np.zeros((4, 1), np.float32), 4, seed=1)
    assert chosen.kind is BaselineKind.LINEAR_PROBE
    assert chosen.output.probabilities[:, [1, 3]].tolist() == [[0, 0]] * 4
