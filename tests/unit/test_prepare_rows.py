"""Conversion of rows to examples, and the message for each kind of invalid row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import StageFailure
from finetune_trainer.prepare.problems import BadRow, Tally
from finetune_trainer.prepare.rows import check_headers
from finetune_trainer.prepared import InvalidRow
from finetune_trainer.tasks.instruction_tuning.rows import ChatRows, PromptRows, schema_for
from finetune_trainer.tasks.text_classification.rows import (
    Labelled,
    LabelledRows,
    label_notes,
    same_number,
    sorted_labels,
)
from tests.unit.prepare_cases import a_chat, a_conversation, a_file, a_spec

INTENTS = LabelledRows("text", "label", frozenset({"refund", "shipping", "other"}))
ANY_LABEL = LabelledRows("text", "label", None)
CHAT = ChatRows("messages")


@pytest.mark.parametrize(
    ("value", "label"),
    [("refund", "refund"), (" refund ", "refund"), (True, "true"), (False, "false"), (3, "3"), (3.0, "3")],
)
def test_labels_may_be_text_booleans_and_whole_numbers(value: object, label: str) -> None:
    assert ANY_LABEL.example({"text": "a", "label": value}) == Labelled("a", label)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"message": "a", "label": "refund"},
            "column 'text' is missing (columns: 'message', 'label'); set dataset.columns.text to the right column",
        ),
        (
            {"text": "a"},
            "column 'label' is missing (columns: 'text'); set dataset.columns.label to the right column",
        ),
        (
            {"root:x:0:0:root:/root:/bin/bash": "", "KEY=value": "", "x" * 41: "", "label": ""},
            "column 'text' is missing (columns: 'label', …); set dataset.columns.text to the right column",
        ),
        (
            {"root:x:0:0:root:/root:/bin/bash": ""},
            "column 'text' is missing (columns: …); set dataset.columns.text to the right column",
        ),
        ({}, "column 'text' is missing (columns: none); set dataset.columns.text to the right column"),
        ({"text": 7, "label": "refund"}, "column 'text' contains a number, not text; correct the row"),
        ({"text": None, "label": "refund"}, "column 'text' contains null, not text; correct the row"),
        ({"text": ["a"], "label": "refund"}, "column 'text' contains a list, not text; correct the row"),
        ({"text": "", "label": "refund"}, "column 'text' is empty; fill it in or remove the row"),
        ({"text": " \n", "label": "refund"}, "column 'text' is empty; fill it in or remove the row"),
        ({"text": "\ufeff\u200b ", "label": "refund"}, "column 'text' is empty; fill it in or remove the row"),
        (
            {"text": "\ud83d", "label": "refund"},
            "column 'text' contains an unpaired surrogate, such as \\ud83d; correct the row",
        ),
        ({"text": "a", "label": ""}, "column 'label' is empty; fill it in or remove the row"),
        ({"text": "a", "label": None}, "column 'label' contains null, not text; correct the row"),
        (
            {"text": "a", "label": 1.5},
            "column 'label' contains the number 1.5, which is not a valid label; use text or an integer, "
            "because TextClassification learns no quantities",
        ),
        ({"text": "a", "label": float("nan")}, "column 'label' is empty; fill it in or remove the row"),
        ({"text": "a\0b", "label": "refund"}, "column 'text' contains a NUL character; remove it"),
        ({"text": "a", "label": "refnud"}, "label 'refnud' is not in task.labels; did you mean 'refund'?"),
        ({"text": "a", "label": "REFUND"}, "label 'REFUND' is not in task.labels; did you mean 'refund'?"),
        (
            {"text": "a", "label": "x"},
            "label 'x' is not in task.labels; use one of 'other', 'refund', 'shipping'",
        ),
    ],
)
def test_an_invalid_labelled_row_is_rejected_with_a_message(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRow) as problem:
        INTENTS.example(row)
    assert str(problem.value) == sentence


@pytest.mark.parametrize(
    ("labels", "same"),
    [
        (("1", "1.0", "2"), ("1", "1.0")),
        (("1,0", "0", "1.00"), ("1,0", "1.00")),
        (("-1", "1", "1.5", "01", "1.000", "v1.0"), None),
    ],
)
def test_labels_that_are_one_number_in_two_forms_are_found(
    labels: tuple[str, ...], same: tuple[str, str] | None
) -> None:
    assert same_number(labels) == same


def test_messages_become_a_conversation() -> None:
    turns = (("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "+1?"), ("assistant", "5"))
    assert CHAT.example({"messages": a_chat(*turns)}) == a_conversation(a_chat(*turns))


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ("hello", "column 'messages' contains a string, not a list of messages; correct the row"),
        ([], "column 'messages' is an empty list; remove the row"),
        (["hello"], "message 1 is a string, not an object with role and content; correct the row"),
        (
            a_chat(("user", "a"), ("robot", "b")),
            "message 2 has the unknown role 'robot'; use one of system, developer, user, assistant, tool",
        ),
        ([{"content": "a"}], "message 1 has no role; use one of system, developer, user, assistant, tool"),
        (
            a_chat(("user", "a")),
            "no message is from the assistant, so there is no answer to learn or to measure; add the answer",
        ),
        (
            a_chat(("user", "a"), ("assistant", "b"), ("user", "c")),
            "the last message is from the user, not from the assistant; add the answer or remove the message",
        ),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "a part of message 1 contains null, not text; correct the row",
        ),
        ([{"role": "user"}], "the content of message 1 contains null, not text; correct the row"),
        (
            a_chat(("user", "a"), ("assistant", " ")),
            "the content of message 2 is empty; fill it in or remove the row",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{}]}],
            "the function name in a tool call of message 1 contains null, not text; correct the row",
        ),
    ],
)
def test_an_invalid_conversation_is_rejected_with_a_message(messages: object, sentence: str) -> None:
    with pytest.raises(BadRow) as problem:
        CHAT.example({"messages": messages})
    assert str(problem.value) == sentence


def test_prompt_and_completion_are_a_conversation_of_two() -> None:
    assert PromptRows("q", "a").example({"q": "2+2?", "a": "4"}) == a_conversation(a_chat())
    with pytest.raises(BadRow, match=r"^column 'a' is missing \(columns: 'q'\); set dataset\.columns\.completion to"):
        PromptRows("q", "a").example({"q": "2+2?"})


def test_a_label_with_white_space_in_the_spec_is_explained() -> None:
    schema = LabelledRows("text", "label", frozenset({"refund ", "other"}))
    with pytest.raises(BadRow, match=r"'refund' is not in task\.labels; it is there with white space around it"):
        schema.example({"text": "a", "label": "refund "})


def test_the_first_row_decides_between_messages_and_prompts(tmp_path: Path) -> None:
    chat = a_file(tmp_path / "chat.jsonl", '{"messages": []}\n')
    pairs = a_file(tmp_path / "pairs.jsonl", '{"prompt": "a", "completion": "b"}\n')
    spec = a_spec("InstructionTuning")
    assert schema_for(spec, [chat]) == ChatRows("messages")
    assert schema_for(spec, [pairs]) == PromptRows("prompt", "completion")
    named = a_spec("InstructionTuning", dataset={"columns": {"messages": "turns"}})
    assert schema_for(named, [pairs]) == ChatRows("turns")
    chat_format = a_spec("InstructionTuning", dataset={"format": "OpenAIChat"})
    assert schema_for(chat_format, [pairs]) == ChatRows("messages")
    other = a_spec("InstructionTuning", dataset={"columns": {"prompt": "q"}})
    assert schema_for(other, [chat]) == PromptRows("q", "completion")


def test_a_header_without_a_needed_column_is_rejected(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.csv", "message,label\na,b\n")
    with pytest.raises(StageFailure) as failure:
        check_headers([file], ANY_LABEL)
    assert failure.value.message == (
        "s3://data/a.csv:1: column 'text' is missing (columns: 'message', 'label'); set "
        "dataset.columns.text to the right column"
    )


def test_integer_labels_are_sorted_by_value() -> None:
    assert sorted_labels(["10", "9", "-1"]) == ("-1", "9", "10")
    assert sorted_labels(["10", "9", "b"]) == ("10", "9", "b")


def a_tally(share: float, rows: int, *invalid: int) -> Tally:
    tally = Tally("s3://data/a.jsonl", share)
    tally.rows = rows
    for row in invalid:
        tally.reject(row, f"s3://data/a.jsonl:{row}", InvalidRow(file="a.jsonl", line=row, problem="it is bad"))
    return tally


def test_an_empty_dataset_is_rejected() -> None:
    with pytest.raises(StageFailure) as failure:
        a_tally(0.5, 0).check()
    assert failure.value.message == "s3://data/a.jsonl has no rows: add examples or correct the address"


def test_invalid_rows_are_dropped_up_to_the_allowed_fraction_and_rejected_above() -> None:
    a_tally(0.0, 10).check()
    a_tally(0.2, 10, 3, 7).check()
    with pytest.raises(StageFailure) as failure:
        a_tally(0.0, 120, 7).check()
    assert failure.value.message == (
        "s3://data/a.jsonl:7: it is bad (1 of 120 rows is invalid, 0.833 %; dataset.cleaning.dropInvalid allows 0 %)"
    )
    with pytest.raises(StageFailure) as failure:
        a_tally(0.01, 100, 9, 3).check()
    assert failure.value.message == (
        "s3://data/a.jsonl:3: it is bad (2 of 100 rows are invalid, 2 %, also at :9; dataset.cleaning.dropInvalid "
        "allows 1 %)"
    )


def test_each_problem_of_invalid_rows_has_its_count_and_places() -> None:
    tally = a_tally(0.1, 10, 2, 7)
    for row, problem in ((3, "empty"), (5, "no label (a)"), (6, "no label (b)"), (8, "long"), (9, "odd")):
        tally.reject(row, f"s3://data/a.jsonl:{row}", InvalidRow(file="a.jsonl", line=row, problem=problem))
    tally.reject(10, "s3://data/b.jsonl:1", InvalidRow(file="b.jsonl", line=1, problem="no label (c)"))
    with pytest.raises(StageFailure) as failure:
        tally.check()
    assert failure.value.message == (
        "s3://data/a.jsonl:2: it is bad (8 of 10 rows are invalid, 80 %, also at :7; 3 at :5, :6, b.jsonl:1: no label "
        "(a); 1 at :3: empty; 1 at :8: long; …; dataset.cleaning.dropInvalid allows 10 %)"
    )


def test_the_first_hundred_invalid_rows_are_reported_in_order() -> None:
    tally = a_tally(0.9, 2000, *range(1000, 0, -1))
    assert tally.invalid == 1000
    assert [row.line for row in tally.reported] == list(range(1, 101))


def test_labels_that_are_probably_mistakes_are_named_with_their_counts() -> None:
    assert label_notes({"login": 50, "Login": 3, "log in": 2, "refund": 40}) == [
        "labels 'login' (50) and 'Login' (3) and 'log in' (2) differ only in case, white space or characters that look "
        "the same"
    ]
    assert label_notes({"café": 2, "cafe\u0301": 3, "cafe\u200b": 4, "cafe": 5}) == [
        "labels 'café' (2) and 'cafe\\u0301' (3) differ only in case, white space or characters that look the same",
        "labels 'cafe\\u200b' (4) and 'cafe' (5) differ only in case, white space or characters that look the same",
    ]
    assert label_notes({"nan": 9, "none": 9}) == [
        "label 'nan' (9) looks like a missing value; remove the rows if it is one"
    ]
    assert label_notes({"a": 9, "None": 2, "N/A": 3}) == [
        "labels 'None' (2) and 'N/A' (3) look like a missing value; remove the rows if it is one"
    ]
    assert label_notes({"a": 1, "b": 1, "c": 1, "d": 9}) == ["3 labels with a single row: 'a', 'b', …"]
    assert label_notes({"a": 2, "b": 2}) == []
