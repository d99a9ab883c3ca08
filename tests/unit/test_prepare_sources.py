"""The files of a data set and their formats."""

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


def test_a_local_file_is_used_and_hashed_in_place(tmp_path: Path) -> None:
    uri = f"{files_in(tmp_path, 'a.jsonl')}/a.jsonl"
    (file,) = fetch_files(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert (file.uri, file.name, file.kind, file.size) == (uri, "a.jsonl", FileKind.JSONL, 7)
    assert file.sha256 == hashlib.sha256(b"a.jsonl").hexdigest()
    assert file.path == tmp_path / "a.jsonl"
    assert file.at(3) == f"{uri}:3"


def test_files_of_a_directory_are_in_order_of_name(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "b.csv", "a.parquet", "c/d.JSONL", "_done", "_old/a.csv", ".x.csv", "README.md")
    files = fetch_files(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert [(file.name, file.kind) for file in files] == [
        ("a.parquet", FileKind.PARQUET),
        ("b.csv", FileKind.CSV),
        ("c/d.JSONL", FileKind.JSONL),
    ]
    assert [file.name for file in fetch_files(uri, DataFormat.CSV, tmp_path / "scratch")] == ["b.csv"]


def test_a_file_may_have_any_name_if_the_format_is_set(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "data.txt")
    (file,) = fetch_files(f"{uri}/data.txt", DataFormat.CSV, tmp_path / "scratch")
    assert file.kind is FileKind.CSV
    failure = failure_of(f"{uri}/data.txt", DataFormat.AUTO, tmp_path / "scratch")
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message == (
        f"The format of {uri}/data.txt is not clear from its name: set dataset.format, or rename the file to end in "
        ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    )


def test_missing_data_is_not_found(tmp_path: Path) -> None:
    uri = f"{tmp_path.as_uri()}/none.jsonl"
    failure = failure_of(uri, DataFormat.AUTO, tmp_path / "scratch")
    assert failure.reason is Reason.NOT_FOUND
    assert failure.message == f"There is no data at {uri}: correct the address, or upload the data"


def test_a_directory_without_data_files_is_rejected(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "a.txt", "b.xlsx")
    failure = failure_of(uri, DataFormat.PARQUET, tmp_path / "scratch")
    assert failure.reason is Reason.BAD_DATA
    assert failure.message == f"{uri} has no file that ends in .parquet, only a.txt, b.xlsx: rename the data files"
