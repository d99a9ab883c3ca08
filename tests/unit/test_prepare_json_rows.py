"""JSON arrays, and JSON that is valid but not a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.readers import columns_of
from finetune_trainer.prepare.sources import FileKind
from tests.unit.prepare_cases import a_file, rows_of


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_is_read_by_row_number(tmp_path: Path, name: str, indent: int | None) -> None:
    items = [{"text": f"é {number}", "n": number} for number in range(20_000)]
    file = a_file(tmp_path / name, json.dumps(items, indent=indent, ensure_ascii=False))
    assert file.kind is FileKind.JSON_ARRAY
    assert rows_of(file) == list(enumerate(items, 1))
    assert columns_of(file) == ("text", "n")
    assert file.at(3) == f"s3://data/{name} row 3"


def test_an_array_may_have_rows_of_megabytes(tmp_path: Path) -> None:
    items = [{"text": letter * 3_000_000} for letter in "ab"]
    assert rows_of(a_file(tmp_path / "a.json", json.dumps(items))) == list(enumerate(items, 1))


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(a_file(tmp_path / "a.json", " [ ] ")) == []


def test_reading_an_array_continues_after_an_invalid_row(tmp_path: Path) -> None:
    content = '[{"a": 1}, 7, {"a": 1, "a": 2}, {"b": [{"c": 0, "c": 0}]}, {"a": ' + "9" * 5000 + '}, {"a": 2}]'
    assert rows_of(a_file(tmp_path / "a.json", content)) == [
        (1, {"a": 1}),
        (2, "the row is a number, not a JSON object; write one JSON object per row"),
        (3, "the key 'a' occurs twice in an object; remove one of them"),
        (4, "the key 'c' occurs twice in an object; remove one of them"),
        (5, "a number has 5000 digits; correct the row"),
        (6, {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"a": 1},\n{"a": }]', "2: row 2 of the array is invalid JSON (Expecting value)"),
        ('[{"a": 1},\n{"a": 1}', "2: row 2 of the array is invalid JSON (the array is not closed)"),
        ('[{"a": 1}\n{"a": 1}]', "2: row 1 of the array is invalid JSON (expecting ',' or ']')"),
        ('[{"a": 1},]', "1: row 2 of the array is invalid JSON (Expecting value)"),
        ('[{"a": 1}]\n[{"a": 1}]', "2: row 1 of the array is invalid JSON (there is text after the array)"),
        ('[{"a": ' + "[" * 100_000, "1: row 1 of the array is invalid JSON (it is nested too deeply)"),
    ],
)
def test_an_invalid_array_is_rejected_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(StageFailure) as failure:
        rows_of(a_file(tmp_path / "a.json", content))
    assert failure.value.reason is Reason.BAD_DATA
    remedy = "write an array of JSON objects, or one JSON object per line"
    assert failure.value.message == f"s3://data/a.json:{problem}: {remedy}"


def test_bytes_that_are_not_utf8_reject_an_array_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"s3://data/a.json:3: byte 3 of the line \(0xfc\) is not UTF-8"):
        rows_of(a_file(tmp_path / "a.json", b'[\n{"a": 1},\n{"\xfc": 1}]'))


def test_duplicate_keys_and_long_numbers_make_a_line_invalid(tmp_path: Path) -> None:
    content = '{"a": 1, "a": 1}\n{"a": -' + "9" * 5000 + '}\n{"a": 1}\n'
    assert rows_of(a_file(tmp_path / "a.jsonl", content)) == [
        (1, "the key 'a' occurs twice in an object; remove one of them"),
        (2, "a number has 5000 digits; correct the row"),
        (3, {"a": 1}),
    ]


def test_an_object_over_several_lines_is_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as failure:
        a_file(tmp_path / "a.json", json.dumps({"data": [{"text": "a"}]}, indent=2))
    assert failure.value.message == (
        "s3://data/a.json:1: the file is a JSON object over several lines: write one JSON object per line, or an array "
        "of objects"
    )
