"""Which files a data set has, and how they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataFormat
from finetune_trainer.prepare.sources import FileKind, fetch_files


def files_in(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory.as_uri()


def failure_of(uri: str, data_format: DataFormat, scratch: Path) -> StageFailure:
    with pytest.raises(StageFailure) as failure:
        fetch_files(uri, data_format, scratch)
    return failure.value


def test_one_file_is_hashed_where_it_is(tmp_path: Path) -> None:
    uri = f"{files_in(tmp_path, 'a.jsonl')}/a.jsonl"
    (file,) = fetch_files(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert (file.uri, file.name, file.kind, file.size) == (uri, "a.jsonl", FileKind.JSONL, 7)
    assert file.sha256 == hashlib.sha256(b"a.jsonl").hexdigest()
    assert file.path == tmp_path / "a.jsonl"
    assert file.at(3) == f"{uri}:3"


def test_a_directory_is_read_in_order_of_name(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "b.csv", "a.parquet", "c/d.JSONL", "_done", "_old/a.csv", ".x.csv", "README.md")
    files = fetch_files(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert [(file.name, file.kind) for file in files] == [
        ("a.parquet", FileKind.PARQUET),
        ("b.csv", FileKind.CSV),
        ("c/d.JSONL", FileKind.JSONL),
    ]
    assert [file.name for file in fetch_files(uri, DataFormat.CSV, tmp_path / "scratch")] == ["b.csv"]


def test_a_named_format_reads_a_file_of_any_name(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "data.txt")
    (file,) = fetch_files(f"{uri}/data.txt", DataFormat.CSV, tmp_path / "scratch")
    assert file.kind is FileKind.CSV
    failure = failure_of(f"{uri}/data.txt", DataFormat.AUTO, tmp_path / "scratch")
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message == (
        f"The format of {uri}/data.txt cannot be told from its name: set dataset.format, or let the name end in "
        ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    )


def test_missing_data_is_not_found(tmp_path: Path) -> None:
    uri = f"{tmp_path.as_uri()}/none.jsonl"
    failure = failure_of(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert failure.reason is Reason.NOT_FOUND
    assert failure.message == f"Nothing is at {uri}: correct the address, or put the data there"


def test_a_directory_without_data_files_says_what_it_has(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "a.txt", "b.xlsx")
    failure = failure_of(uri, DataFormat.PARQUET, tmp_path / "scratch")
    assert failure.reason is Reason.BAD_DATA
    assert failure.message == f"{uri} has no file that ends in .parquet, but a.txt, b.xlsx: name the data files so"
