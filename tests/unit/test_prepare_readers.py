"""Reading rows of data files, and all kinds of invalid files and rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import columns_of, read_rows
from tests.unit.prepare_cases import a_file, on_disk


def rows(path: Path, content: bytes | str) -> list[tuple[int, object]]:
    """All rows, and the messages of invalid ones."""
    return [
        (line, str(found) if isinstance(found, BadRow) else dict(found))
        for line, found in read_rows(a_file(path, content), ("text", "label"))
    ]


def test_json_lines_are_numbered_and_empty_lines_skipped(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "\xc3\xa9"}'
    assert rows(tmp_path / "a.jsonl", content) == [(1, {"text": "a"}), (4, {"text": "é"})]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": a}', "invalid JSON at column 10 (Expecting value)"),
        (b'{"text": "a"', "invalid JSON at column 13 (Expecting ',' delimiter)"),
        (b"[1]", "the line is a list, not a JSON object"),
        (b"7", "the line is a number, not a JSON object"),
    ],
)
def test_reading_continues_after_an_invalid_json_line(tmp_path: Path, line: bytes, sentence: str) -> None:
    found = rows(tmp_path / "a.jsonl", b'{"text": "a"}\n' * 6 + line + b'\n{"text": "b"}\n')
    assert found[6] == (7, f"{sentence}; write one JSON object per line")
    assert found[7] == (8, {"text": "b"})


def test_invalid_utf8_is_reported_with_its_position(tmp_path: Path) -> None:
    sentence = (
        "byte 11 of the line (0xe9) is not UTF-8 (in windows-1252 it is 'é'); save the file as UTF-8, or set "
        "dataset.encoding to its encoding"
    )
    assert rows(tmp_path / "a.jsonl", b'{}\n{"text": "\xe9t\xe9"}\n{}') == [(1, {}), (2, sentence), (3, {})]
    assert rows(tmp_path / "a.csv", b"text,label\nt\xe9,x\nu,y\n") == [
        (2, sentence.replace("byte 11", "byte 2")),
        (3, {"text": "u", "label": "y"}),
    ]


def test_deeply_nested_json_is_an_invalid_row(tmp_path: Path) -> None:
    deep = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    assert rows(tmp_path / "a.jsonl", deep) == [(1, "the JSON is nested too deeply; correct the row")]


def test_csv_records_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    content = '\ufefftext, label\r\n"two\r\nlines",x\r\n\r\n"a ""b"", c",y\r\n'
    assert rows(tmp_path / "a.csv", content) == [
        (2, {"text": "two\r\nlines", "label": "x"}),
        (5, {"text": 'a "b", c', "label": "y"}),
    ]


def test_tab_separated_values_are_read(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.tsv", "text\tlabel\na, b\tx\n") == [(2, {"text": "a, b", "label": "x"})]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (
            "a,b,c",
            "the row has 3 fields and the header 2; quote fields that contain a delimiter, a quote or a line break",
        ),
        ("a", "the row has 1 field and the header 2; add the missing ones, or close a quote that takes in a delimiter"),
        ('"a"b,c', "invalid quoting (',' expected after '\"'); double each quote inside a quoted field"),
    ],
)
def test_reading_continues_after_an_invalid_csv_record(tmp_path: Path, record: str, sentence: str) -> None:
    found = rows(tmp_path / "a.csv", f"text,label\n{record}\nu,y\n")
    assert found == [(2, sentence), (3, {"text": "u", "label": "y"})]


def test_an_unclosed_quote_is_reported_with_its_first_line(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", 'text,label\nu,y\n"open,x\nv,z\n')
    assert found[1:] == [
        (3, "invalid quoting (unexpected end of data); double each quote inside a quoted field"),
        (4, "the line follows the open quote in line 3; close that quote"),
    ]


def test_a_duplicate_column_in_the_header_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as failure:
        rows(tmp_path / "a.csv", "text,label,text\na,b,c\n")
    assert failure.value.message == "s3://data/a.csv:1: the header has the column 'text' twice: rename one of them"


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None], "label": [1, 2], "more": [0, 0]}), path)
    file = on_disk(path)
    assert columns_of(file) == ("text", "label", "more")
    assert list(read_rows(file, ("text", "label"))) == [(1, {"text": "a", "label": 1}), (2, {"text": None, "label": 2})]
    assert file.at(2) == "s3://data/a.parquet row 2"


def test_a_truncated_parquet_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000, "label": [1] * 1000}), path)
    with pytest.raises(StageFailure) as failure:
        rows(path, path.read_bytes()[:-20])
    assert failure.value.reason is Reason.BAD_DATA
    assert failure.value.message.startswith("s3://data/a.parquet is not a valid Parquet file (")
    assert failure.value.message.endswith("): write it again")


def test_columns_of_json_lines_come_from_the_first_valid_row(tmp_path: Path) -> None:
    assert columns_of(a_file(tmp_path / "a.jsonl", 'broken\n{"b": 1, "a": 2}\n')) == ("b", "a")
    assert columns_of(a_file(tmp_path / "a.jsonl", "")) is None
    assert columns_of(a_file(tmp_path / "a.csv", "")) is None
