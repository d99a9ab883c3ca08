"""Rows of QuestionAnswering, and files of SQuAD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import columns_of, read_rows
from finetune_trainer.prepare.sources import FileKind
from finetune_trainer.tasks.question_answering.rows import Answer, Question, QuestionRows, answers_of
from tests.unit.prepare_cases import a_file, rows_of

OAK = "The table is made of oak."


def rows() -> QuestionRows:
    return QuestionRows("question", "context", "answers")


def a_row(**values: Any) -> dict[str, Any]:
    return {"question": "What is it?", "context": OAK, "answers": ["oak"], **values}


def squad(**changes: Any) -> dict[str, Any]:
    question = {"id": "q1", "question": "What?", "answers": [{"text": "oak", "answer_start": 21}]}
    return {
        "version": "1.1",
        "data": [{"title": "Wood", "paragraphs": [{"context": OAK, "qas": [question | changes]}]}],
    }


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ({"text": ["oak", "the oak"], "answer_start": [21, 0]}, (Answer("oak", 21), Answer("the oak", 0))),
        ({"text": ["oak"]}, (Answer("oak"),)),
        ({"text": "oak", "answer_start": 21}, (Answer("oak", 21),)),
        ([{"text": "oak", "answer_start": 21}], (Answer("oak", 21),)),
        (["oak", "elm"], (Answer("oak"), Answer("elm"))),
        ("oak", (Answer("oak"),)),
        ('{"text": ["oak"], "answer_start": [21]}', (Answer("oak", 21),)),
        ('["oak"]', (Answer("oak"),)),
        ("{'text': ['oak'], 'answer_start': [21.0]}", (Answer("oak", 21),)),
        ("['oak']", (Answer("oak"),)),
        ("{oak}", (Answer("{oak}"),)),
        ("[1] of the list", (Answer("[1] of the list"),)),
        ("[1]", (Answer("[1]"),)),
        (None, ()),
        ("", ()),
        ("  ", ()),
        ([], ()),
        ("[]", ()),
        ([""], ()),
        ({}, ()),
        ({"text": [], "answer_start": []}, ()),
    ],
)
def test_answers_have_several_forms(cell: Any, answers: tuple[Answer, ...]) -> None:
    assert answers_of(cell, "answers") == answers


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (7, "contains a number"),
        ({"answers": ["oak"]}, "an object without the key 'text'"),
        ({"text": ["oak"], "answer_start": [1, 2]}, "has 1 texts and 2 answer_start"),
        ({"text": [3]}, "contains a number as the text of an answer"),
        ({"text": ["oak"], "answer_start": ["21"]}, "has a string as answer_start"),
        ({"text": ["oak"], "answer_start": [21.5]}, "has a number as answer_start"),
        ("{'text': array(['oak'], dtype=object)}", "begins as an object with answers but is not valid JSON"),
        (["oak", ""], "contains an empty answer beside others"),
        (["o\0k"], "contains a NUL character"),
    ],
)
def test_other_forms_of_answers_are_refused(cell: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        answers_of(cell, "answers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "column 'question' is empty"),
        ({"context": ""}, "column 'context' is empty"),
        ({"context": None}, "column 'context' contains null, not text"),
        ({"is_impossible": True}, "column 'is_impossible' is true, but there are answers"),
        ({"is_impossible": "True"}, "column 'is_impossible' is true, but there are answers"),
        ({"is_impossible": 0, "answers": []}, "column 'is_impossible' is false, but there is no answer"),
        ({"question": "", "id": "q7"}, r"column 'question' is empty.*\(question q7\)"),
    ],
)
def test_a_row_without_question_or_context_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        rows().example(a_row(**changes))


@pytest.mark.parametrize("starts", [21, [21], 21.0, "21", "21.0", "[21]"])
def test_answer_start_may_be_a_column(starts: Any) -> None:
    assert rows().example(a_row(answer_start=starts)).answers == (Answer("oak", 21),)
    assert rows().example(a_row(answers={"text": ["oak"], "answer_start": [0]}, answer_start=starts)).answers == (
        Answer("oak", 0),
    )


@pytest.mark.parametrize("starts", [None, "", [1, 2], float("nan")])
def test_answer_start_is_not_needed(starts: Any) -> None:
    answers = () if isinstance(starts, float) else ("oak",)
    found = rows().example(a_row(answers=list(answers), answer_start=starts))
    assert found.answers == tuple(map(Answer, answers))


def test_a_missing_column_is_named() -> None:
    values = a_row()
    del values["context"]
    with pytest.raises(BadRow, match=r"column 'context' is missing \(columns: 'question', 'answers'\)"):
        rows().example(values)


def test_a_row_without_answers_has_none_and_the_schema_knows_that_the_column_was_absent() -> None:
    schema = rows()
    assert schema.example({"question": "What?", "context": OAK}).answers == ()
    assert not schema.answered
    schema.example(a_row(answers=None))
    assert schema.answered


def test_questions_of_one_title_are_a_group_and_without_a_title_those_of_one_context() -> None:
    first, second = (Question("a", context, (), title="Wood") for context in ("b", "c"))
    assert first.group == second.group
    assert Question("a", "b", ()).group != Question("a", "c", ()).group
    assert Question("a", "b", ()).group == Question("x", "b", ()).group


@pytest.mark.parametrize("indent", [None, 1])
def test_squad_files_are_read_question_by_question(tmp_path: Path, indent: int | None) -> None:
    document = squad()
    document["data"] += squad(id="q2", answers=[], is_impossible=True, plausible_answers=[{"text": "table"}])["data"]
    file = a_file(tmp_path / "train.json", json.dumps(document, indent=indent))
    assert file.kind is FileKind.SQUAD
    assert columns_of(file) == ("id", "title", "context", "question", "answers", "is_impossible")
    found = [(number, rows().example(values)) for number, values in read_rows(file, ()) if isinstance(values, dict)]
    assert found == [
        (1, Question("What?", OAK, (Answer("oak", 21),), title="Wood", id="q1")),
        (2, Question("What?", OAK, (), title="Wood", id="q2")),
    ]


def test_a_long_squad_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    document = squad()
    document["data"] *= 3000
    file = a_file(tmp_path / "train.json", json.dumps(document | {"license": "after the data"}))
    assert len(list(read_rows(file, ()))) == 3000


def test_a_question_of_squad_without_the_key_answers_does_not_count_as_unanswerable(tmp_path: Path) -> None:
    document = squad()
    del document["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    ((_, values),) = rows_of(a_file(tmp_path / "test.json", json.dumps(document)))
    assert isinstance(values, dict)
    assert "answers" not in values


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"data": [{"title": "paragraphs"}, {"paragraphs": []}]}, r"data\[0\] has no paragraphs"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": {}}]}]}, r"data\[0\]\.paragraphs\[0\] has an object as qas"),
    ],
)
def test_squad_files_with_other_nesting_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(StageFailure, match=message):
        list(read_rows(a_file(tmp_path / "train.json", json.dumps(document)), ()))


def test_a_truncated_squad_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="invalid JSON"):
        list(read_rows(a_file(tmp_path / "train.json", json.dumps(squad())[:-60]), ()))


def test_rows_that_have_a_list_named_data_are_still_json_lines(tmp_path: Path) -> None:
    text = '{"data": [{"role": "user", "content": "hi"}]}\n' * 2
    assert a_file(tmp_path / "train.jsonl", text).kind is FileKind.JSONL
