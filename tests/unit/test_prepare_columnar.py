"""Parquet and Arrow files."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.readers import columns_of, read_rows
from tests.unit.prepare_cases import a_file, on_disk, rows_of

KINDS = ("parquet", "stream.arrow", "file.arrow")


def written(path: Path, table: Any) -> Path:
    """Write a table in the format that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return path
    new = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def not_utf8(*values: bytes) -> Any:
    """A string array without a check of its bytes, as other languages write it."""
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_the_columns_that_exist(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": ["a", "b", None], "label": [1, 2, 3], "more": [0, 0, 0]})
    file = on_disk(written(tmp_path / f"a.{kind}", table))
    assert columns_of(file) == ("text", "label", "more")
    assert list(read_rows(file, ("text", "more", "none"))) == [
        (1, {"text": "a", "more": 0}),
        (2, {"text": "b", "more": 0}),
        (3, {"text": None, "more": 0}),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_decimals_are_numbers(tmp_path: Path, kind: str) -> None:
    decimals = [Decimal("1.00"), Decimal("0.50"), None]
    file = on_disk(written(tmp_path / f"a.{kind}", pa.table({"label": decimals})))
    assert [(values["label"], type(values["label"])) for _, values in read_rows(file, ("label",))] == [
        (1, int),
        (0.5, float),
        (None, type(None)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplicate_column_is_rejected(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "label", "label"])
    file = on_disk(written(tmp_path / f"a.{kind}", table))
    for read in (columns_of, rows_of):
        with pytest.raises(StageFailure) as failure:
            read(file)
        assert failure.value.reason is Reason.BAD_DATA
        assert failure.value.message == (
            f"s3://data/a.{kind}: the schema has the column 'label' twice: rename one of them"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_not_utf8_make_their_row_invalid(tmp_path: Path, kind: str) -> None:
    nested = pa.StructArray.from_arrays([not_utf8(b"x", b"y", b"\xff")], ["content"])
    table = pa.table({"text": not_utf8(b"a", b"caf\xe9", b"c"), "messages": nested})
    sentence = "of a text (0x{}) is not UTF-8; write the file with UTF-8 text"
    assert rows_of(on_disk(written(tmp_path / f"a.{kind}", table)), "text", "messages") == [
        (1, {"text": "a", "messages": {"content": "x"}}),
        (2, "byte 4 " + sentence.format("e9")),
        (3, "byte 1 " + sentence.format("ff")),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_an_object_does_not_have_are_absent(tmp_path: Path, kind: str) -> None:
    chats = [[{"role": "user", "content": "a", "tool_calls": None}], [{"role": "assistant", "tool_calls": [{"x": 1}]}]]
    file = on_disk(written(tmp_path / f"a.{kind}", pa.table({"messages": chats})))
    assert [values["messages"] for _, values in rows_of(file, "messages")] == [  # type: ignore[index]
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "tool_calls": [{"x": 1}]}],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_class_labels_are_names(tmp_path: Path, kind: str) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "n": {"dtype": "int64", "_type": "Value"}}
    table = pa.table({"label": [0, 1, -1, None], "n": [0, 1, 2, 3]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert rows_of(on_disk(written(tmp_path / f"a.{kind}", table)), "label", "n") == [
        (1, {"label": "neg", "n": 0}),
        (2, {"label": "pos", "n": 1}),
        (3, "-1 is not one of the 2 classes that the file names; label the row or remove it"),
        (4, {"label": None, "n": 3}),
    ]


@pytest.mark.parametrize("metadata", ["[", "7", '{"info": []}', '{"info": {"features": [1]}}', "[" * 100_000])
def test_metadata_that_is_not_of_datasets_is_ignored(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"label": [1]}).replace_schema_metadata({"huggingface": metadata})
    assert rows_of(on_disk(written(tmp_path / "a.parquet", table)), "label") == [(1, {"label": 1})]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_rejected(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / f"a.{kind}", pa.table({"text": ["a" * 100] * 1000, "label": [1] * 1000}))
    name = "Parquet" if kind == "parquet" else "Arrow"
    for content in (path.read_bytes()[:-60], b"", b"text"):
        with pytest.raises(StageFailure) as failure:
            rows_of(a_file(path, content))
        assert failure.value.reason is Reason.BAD_DATA
        assert failure.value.message.startswith(f"s3://data/a.{kind} is not a valid {name} file (")


def test_offsets_beyond_the_data_are_rejected(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "messages": [[{"content": "c"}], [{"content": "d"}]]})
    path = written(tmp_path / "stream.arrow", table)
    content = path.read_bytes()
    offsets = b"\0\0\0\0\1\0\0\0\2\0\0\0"
    assert offsets in content
    with pytest.raises(StageFailure, match="is not a valid Arrow file"):
        rows_of(a_file(path, content.replace(offsets, b"\0\0\0\0\1\0\0\0\0\2\0\0")), "text", "messages")


def test_rows_of_megabytes_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", pa.table({"text": ["x" * 20_000_000, "y" * 20_000_000]}))
    assert [len(values["text"]) for _, values in rows_of(on_disk(path), "text")] == [20_000_000] * 2  # type: ignore[index]
