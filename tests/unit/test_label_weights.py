"""Weights of labels in the training loss."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.tasks.text_classification.preparation import auroc_note, constant, unlearnable
from finetune_trainer.tasks.text_classification.weights import balanced, weight_notes

COUNTS = {"refund": 12, "shipping": 6, "other": 2, "legal": 0}


def test_weights_are_scikit_learns_and_one_without_rows() -> None:
    gold = np.repeat(["refund", "shipping", "other"], [12, 6, 2])
    expected = compute_class_weight("balanced", classes=np.array(["refund", "shipping", "other"]), y=gold)
    weights = balanced(COUNTS)
    assert [weights[label] for label in ("refund", "shipping", "other")] == pytest.approx(expected)
    assert weights["refund"] == pytest.approx(0.5556, abs=1e-4)
    assert weights["legal"] == 1


def test_the_note_says_the_weights() -> None:
    (weights,) = weight_notes(COUNTS)
    assert weights == (
        "the training loss, and only it, is weighted by label: 'refund' 0.5556 (12 rows), 'shipping' 1.111 (6 rows), "
        "'other' 3.333 (2 rows)"
    )


def test_notes_of_many_labels_are_short() -> None:
    (note,) = weight_notes({f"label {number}": number for number in range(1, 100)})
    assert note.endswith("'label 99' 0.5051 (99 rows), …, 'label 1' 50 (1 row)")


def test_labels_without_a_training_row_are_noted_or_refused() -> None:
    assert unlearnable(COUNTS, dict.fromkeys(COUNTS, 1)) == [
        "the model cannot learn 1 label without a training row: 'legal' (1 test row)"
    ]
    train, test = COUNTS | {"vip": 0, "a": 0, "b": 0}, dict.fromkeys(COUNTS, 2) | {"vip": 0, "a": 0, "b": 0}
    assert unlearnable(train, test) == [
        "the model cannot learn 4 labels without a training row: 'legal' (2 test rows), 'a' (no test rows), "
        "'b' (no test rows), …"
    ]
    assert unlearnable({"a": 1}, {"a": 0}) == []
    with pytest.raises(StageFailure, match=r"^No label of the test split has a training row, such as 'b', so the") as e:
        unlearnable({"a": 9, "b": 0, "c": 0}, {"a": 0, "b": 1, "c": 1})
    assert e.value.reason is Reason.BAD_DATA


def test_labels_of_every_row_are_named() -> None:
    assert constant({"a": 9, "b": 3, "c": 0}, 9) == ["every training row has the label 'a'"]
    assert constant({"a": 9, "b": 9, "c": 1}, 9) == ["every training row has the labels 'a', 'b'"]
    assert constant({"a": 8, "b": 3}, 9) == []
    with pytest.raises(StageFailure, match=r"All training rows have the same labels \('a', 'b'\)"):
        constant({"a": 9, "b": 9, "c": 0}, 9)


def test_labels_without_an_area_are_named() -> None:
    assert auroc_note(["a"]) == "auroc leaves out the label that no or every test row has: 'a'"
    assert auroc_note(list("abcd")) == "auroc leaves out 4 labels that no or every test row has: 'a', 'b', 'c', …"
