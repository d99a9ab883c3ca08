"""What prepare tells about the data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.failures import StageFailure
from finetune_api.method_settings import PreferenceSpec
from finetune_api.stage import MOST_NOTES, NOTE_LENGTH
from finetune_api.vocabulary import Deduplication
from finetune_trainer.prepare.notes import contradictions, few_steps, status_notes
from finetune_trainer.prepare.problems import Tally, dropped, problem_lines
from finetune_trainer.prepared import InvalidRow, SplitReport
from finetune_trainer.tasks.preference_tuning.preparation import balance_notes
from tests.builders import a_job


def test_notes_that_are_left_out_are_counted() -> None:
    notes = [f"note {number}" for number in range(MOST_NOTES)]
    assert status_notes(notes) == tuple(notes)
    *first, last = status_notes([*notes, "another"])
    assert first == notes[:-1]
    assert last == "and 2 more notes: see the log of prepare, or data.json beside the prepared data"
    (long,) = status_notes(["x" * 500])
    assert long == "x" * (NOTE_LENGTH - 1) + "…"


def tally_of(*rows: InvalidRow) -> Tally:
    tally = Tally("file:///a", 1.0)
    for row in rows:
        tally.reject(row.line, f"{row.file}:{row.line}", row)
    return tally


def test_dropped_rows_are_told_by_their_problem() -> None:
    tally = tally_of(
        InvalidRow(file="a.jsonl", line=3, problem="the tests fail (AssertionError)"),
        InvalidRow(file="a.jsonl", line=7, problem="no text"),
        InvalidRow(file="a.jsonl", line=9, problem="the tests fail (NameError)"),
    )
    other = tally_of(InvalidRow(file="b.jsonl", line=2, problem="no text"))
    assert dropped([tally]) == [
        "dropped rows: 2 at a.jsonl:3, a.jsonl:9: the tests fail (AssertionError); 1 at a.jsonl:7: no text"
    ]
    assert dropped([tally, other]) == [
        "dropped rows: 2 at a.jsonl:3, a.jsonl:9: the tests fail (AssertionError); 2 at a.jsonl:7, b.jsonl:2: no text"
    ]
    assert dropped([tally_of()]) == []


def test_every_dropped_row_counts_however_many_there_are() -> None:
    rows = [InvalidRow(file="a.jsonl", line=one, problem="no text" if one % 3 else "no label") for one in range(600)]
    unlike = [InvalidRow(file="a.jsonl", line=700 + one, problem=f"{'x' * one} is odd") for one in range(150)]
    tally = tally_of(*reversed(rows), *unlike)
    assert problem_lines([tally], 2) == [
        "400 at a.jsonl:1, a.jsonl:2, a.jsonl:4, …: no text",
        "200 at a.jsonl:0, a.jsonl:3, a.jsonl:6, …: no label",
        "150 for other reasons",
    ]
    assert len(tally.reported) == 100


def test_the_first_row_is_told_if_it_is_found_invalid_after_many_other_problems() -> None:
    odd = [InvalidRow(file="a.jsonl", line=10 + one, problem=f"{'x' * one} is odd") for one in range(150)]
    tally = tally_of(*odd, InvalidRow(file="a.jsonl", line=1, problem="no text"))
    tally.allowed_share, tally.rows = 0.0, 200
    with pytest.raises(StageFailure, match=r"^a.jsonl:1: no text \(151 of 200 rows are invalid"):
        tally.check()


def test_equally_frequent_problems_are_told_in_the_order_of_their_rows() -> None:
    """Some rows are found invalid later than others, during tokenisation."""
    tally = tally_of(
        *(
            InvalidRow(file="a.jsonl", line=line, problem=f"{name} is wrong")
            for line, name in ((3, "c"), (1, "a"), (2, "b"))
        )
    )
    assert problem_lines([tally], 3) == [
        "1 at a.jsonl:1: a is wrong",
        "1 at a.jsonl:2: b is wrong",
        "1 at a.jsonl:3: c is wrong",
    ]


@pytest.mark.parametrize(
    ("deduplicate", "end"),
    [(Deduplication.NONE, ", and is kept (deduplicate: None)"), (Deduplication.EXACT, ", and is dropped")],
)
def test_it_is_said_what_becomes_of_contradictions(deduplicate: Deduplication, end: str) -> None:
    (note,) = contradictions(1, deduplicate)
    assert note == f"1 row has the text of an earlier row but another label or choice{end}"
    assert contradictions(0, deduplicate) == []


@pytest.mark.parametrize(("good", "bad"), [(35, 24), (9, 3), (1, 700), (6000, 7), (24, 35), (29, 10)])
def test_weights_that_a_note_names_are_in_balance(good: int, bad: int) -> None:
    counts = {"desirable": good, "undesirable": bad}

    def notes(**weights: float) -> list[str]:
        return balance_notes(counts, PreferenceSpec.model_validate_json(json.dumps({"loss": "KTO", **weights})))

    (note,) = notes()
    words = note.replace(",", "").split("undesirableWeight from ")[1].split()
    for undesirable in (words[0], words[2]):
        assert notes(undesirableWeight=float(undesirable)) == []
    for desirable in (words[-3], words[-1]):
        assert notes(desirableWeight=float(desirable)) == []


def _few(examples: int, changes: dict[str, Any], *, packing: bool = False) -> list[str]:
    train = SplitReport(examples=examples, tokens=130 * examples, truncated=0, length_quantiles={})
    return few_steps(a_job(**changes).spec, train, 1024, packing=packing)


@pytest.mark.parametrize(
    ("changes", "packing", "note"),
    [
        (
            {"training": {"epochs": 4}},
            True,
            "the training has only about 4 steps, in which a model may learn too little, because 181 examples are "
            "packed into about 23 rows: lower training.batchSize, which is 32, or set training.packing to false",
        ),
        (
            {},
            False,
            "the training has only 18 steps, in which a model may learn too little: lower training.batchSize, which is "
            "32, or raise training.epochs",
        ),
        (
            {"task": {"type": "LanguageModeling"}, "training": {"batchSize": 2, "epochs": 0.5}},
            False,
            "lower training.max",
        ),
    ],
)
def test_a_training_of_few_steps_is_noted(changes: dict[str, Any], packing: bool, note: str) -> None:
    (found,) = _few(181, changes, packing=packing)
    assert note in found


def test_steps_that_were_asked_for_are_not_noted() -> None:
    assert _few(181, {"training": {"epochs": 1}}) == []
    assert _few(181, {"training": {"maxSteps": 1}}, packing=True) == []
    assert _few(181, {"training": {"batchSize": 8}}) == []
    assert _few(3000, {}, packing=True) == []
