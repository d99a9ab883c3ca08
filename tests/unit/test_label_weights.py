"""Weights of labels in the training loss."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from finetune_trainer.tasks.text_classification.weights import balanced, weight_notes

COUNTS = {"refund": 12, "shipping": 6, "other": 2, "legal": 0}


def test_weights_are_scikit_learns_and_one_without_rows() -> None:
    gold = np.repeat(["refund", "shipping", "other"], [12, 6, 2])
    expected = compute_class_weight("balanced", classes=np.array(["refund", "shipping", "other"]), y=gold)
    weights = balanced(COUNTS)
    assert [weights[label] for label in ("refund", "shipping", "other")] == pytest.approx(expected)
    assert weights["refund"] == pytest.approx(0.5556, abs=1e-4)
    assert weights["legal"] == 1


def test_notes_say_the_weights_and_the_label_without_rows() -> None:
    weights, absent = weight_notes(COUNTS)
    assert weights == (
        "the training loss, and only it, is weighted by label: 'refund' 0.5556 (12 rows), 'shipping' 1.111 (6 rows), "
        "'other' 3.333 (2 rows)"
    )
    assert absent.startswith("without a training row, and weight 1 without effect: 'legal' (0 rows)")


def test_notes_of_many_labels_are_short() -> None:
    (note,) = weight_notes({f"label {number}": number for number in range(1, 100)})
    assert note.endswith("'label 99' 0.5051 (99 rows), …, 'label 1' 50 (1 row)")
