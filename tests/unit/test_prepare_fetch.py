"""The files of a data set: addresses, patterns, formats, splits in a directory and saved data sets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.fetch import FetchedData, fetch_data
from finetune_trainer.prepare.sources import FileKind
from tests.unit.prepare_cases import a_spec, rows_of


def files_in(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("text,label\n")
    return directory.as_uri()


def fetched(train: str, scratch: Path, **dataset: Any) -> FetchedData:
    return fetch_data(a_spec(dataset={"train": {"uri": train}, **dataset}).dataset, scratch)


def names(data: FetchedData) -> dict[str, list[str]]:
    return {split: [file.name for file in files] for split, files in data.files.items()}


def failure_of(train: str, scratch: Path, **dataset: Any) -> StageFailure:
    with pytest.raises(StageFailure) as failure:
        fetched(train, scratch, **dataset)
    return failure.value


def test_a_local_file_is_used_and_hashed_in_place(tmp_path: Path) -> None:
    uri = f"{files_in(tmp_path, 'a.csv')}/a.csv"
    (file,) = fetched(uri, tmp_path / "scratch").files["train"]
    assert (file.uri, file.name, file.kind, file.size) == (uri, "a.csv", FileKind.CSV, 11)
    assert file.sha256 == hashlib.sha256(b"text,label\n").hexdigest()
    assert file.path == tmp_path / "a.csv"
    assert file.at(3) == f"{uri}:3"


def test_files_of_a_directory_are_in_order_of_name(tmp_path: Path) -> None:
    uri = files_in(
        tmp_path, "b.csv", "a.parquet", "c/d.JSONL", "e.tsv.gz", "_done", "_old/a.csv", ".x.csv", "README.md"
    )
    files = fetched(uri, tmp_path / "scratch").files["train"]
    assert [(file.name, file.kind) for file in files] == [
        ("a.parquet", FileKind.PARQUET),
        ("b.csv", FileKind.CSV),
        ("c/d.JSONL", FileKind.JSONL),
        ("e.tsv.gz", FileKind.TSV),
    ]
    assert names(fetched(uri, tmp_path / "scratch", format="Parquet")) == {"train": ["a.parquet"]}


def test_a_file_may_have_any_name_if_the_format_is_set(tmp_path: Path) -> None:
    uri = f"{files_in(tmp_path, 'data.txt')}/data.txt"
    assert fetched(uri, tmp_path / "scratch", format="CSV").files["train"][0].kind is FileKind.CSV
    failure = failure_of(uri, tmp_path / "scratch")
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message == (
        f"The format of {uri} is not clear from its name: set dataset.format, or rename the file to end in "
        ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow (also with .gz or .zst)"
    )


@pytest.mark.parametrize(("name", "what"), [("none.jsonl", "is no data at"), ("*.jsonl", "is no file that matches")])
def test_missing_data_is_not_found(tmp_path: Path, name: str, what: str) -> None:
    uri = f"{files_in(tmp_path, 'a.csv')}/{name}"
    failure = failure_of(uri, tmp_path / "scratch")
    assert failure.reason is Reason.NOT_FOUND
    assert failure.message == f"There {what} {uri}: correct the address, or upload the data"


def test_a_directory_without_data_files_is_rejected(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "a.txt", "b.xlsx")
    failure = failure_of(uri, tmp_path / "scratch", format="Parquet")
    assert failure.reason is Reason.BAD_DATA
    assert (
        failure.message
        == f"{uri} has no file that ends in .parquet, only a.txt, b.xlsx: write the examples as rows of such a file"
    )


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.csv", ["a1.csv", "a2.csv"]),
        ("a?.csv", ["a1.csv", "a2.csv"]),
        ("x/*/*.csv", ["x/1/b.csv", "x/2/b.csv"]),
        ("**/*.csv", ["a1.csv", "a2.csv", "x/1/b.csv", "x/2/b.csv"]),
        ("x/**", ["x/1/b.csv", "x/2/b.csv"]),
        ("a1.[c]sv", None),
    ],
)
def test_a_pattern_names_files(tmp_path: Path, pattern: str, matched: list[str] | None) -> None:
    uri = f"{files_in(tmp_path, 'a1.csv', 'a2.csv', 'x/1/b.csv', 'x/2/b.csv', 'a.txt')}/{pattern}"
    if matched is None:
        assert failure_of(uri, tmp_path / "scratch").reason is Reason.NOT_FOUND
    else:
        found = fetched(uri, tmp_path / "scratch").files["train"]
        assert [str(file.path.relative_to(tmp_path)) for file in found] == matched


def test_a_pattern_needs_a_directory(tmp_path: Path) -> None:
    assert "wildcard in its first part" in failure_of("file:///*/a.csv", tmp_path).message
    assert "wildcard in its first part" in failure_of("s3://*/a.csv", tmp_path).message


def test_a_file_whose_name_has_a_wildcard_is_itself(tmp_path: Path) -> None:
    uri = f"{files_in(tmp_path, 'a*.csv', 'ab.csv')}/a*.csv"
    assert names(fetched(uri, tmp_path / "scratch")) == {"train": ["a*.csv"]}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            {"train": [0, 1], "test": [2]},
        ),
        (["train.csv", "test.csv", "dev.csv"], {"train": [0], "test": [1], "validation": [2]}),
        (["train/a.csv", "validation/a.csv", "training/test.csv"], {"train": [0], "validation": [1], "test": [2]}),
        (["part-0.csv", "part-1.csv", "my_data.eval.csv"], {"train": [0, 1], "test": [2]}),
        (["contest.csv", "latest.csv", "devices.csv"], {"train": [0, 2, 1]}),
    ],
)
def test_names_in_a_directory_say_the_split(tmp_path: Path, files: list[str], splits: dict[str, list[int]]) -> None:
    uri = files_in(tmp_path, *files)
    data = fetched(uri, tmp_path / "scratch")
    assert names(data) == {split: [files[index] for index in indices] for split, indices in splits.items()}
    for split in ("validation", "test"):
        assert getattr(data.dataset, split).uri == (uri if split in splits else None)
    if "test" in splits:
        assert data.address("test") == f"{uri} (test files)"
        beside = f"test split beside the training data: {files[splits['test'][0]]}"
        assert beside in data.notes


def test_an_own_uri_takes_precedence_over_files_beside_the_training_data(tmp_path: Path) -> None:
    uri = files_in(tmp_path / "d", "train.csv", "test.csv", "held-out.csv")
    own = f"{files_in(tmp_path / 'other', 'mine.csv')}/mine.csv"
    data = fetched(uri, tmp_path / "scratch", test={"uri": own}, validation={"uri": f"{uri}/held-out.csv"})
    assert names(data) == {"train": ["train.csv"], "validation": ["held-out.csv"], "test": ["mine.csv"]}
    assert data.notes == (
        "not read, because dataset.test.uri is set: test.csv",
        "not training data, because another split has the file: held-out.csv",
    )


def test_the_directory_may_be_the_uri_of_several_splits(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "train.csv", "test.csv")
    data = fetched(uri, tmp_path / "scratch", test={"uri": uri})
    assert names(data) == {"train": ["train.csv"], "test": ["test.csv"]}
    assert data.notes == ()


def test_a_pattern_that_names_one_split_means_its_files(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "test-1.csv", "test-2.csv", "train.csv")
    assert names(fetched(f"{uri}/test-*.csv", tmp_path / "s")) == {"train": ["test-1.csv", "test-2.csv"]}
    assert names(fetched(f"{uri}/*.csv", tmp_path / "s"))["train"] == ["train.csv"]
    own = fetched(f"{uri}/train.csv", tmp_path / "s", test={"uri": f"{uri}/test*"})
    assert names(own) == {"train": ["train.csv"], "test": ["test-1.csv", "test-2.csv"]}


def test_a_directory_without_files_of_the_split_is_rejected(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "test.csv", "dev.csv")
    assert failure_of(uri, tmp_path / "scratch").message == (
        f"{uri} has no train files, only those of test and validation (dev.csv, test.csv): set dataset.train.uri to "
        "the train files"
    )
    other = files_in(tmp_path / "2", "train.csv")
    assert failure_of(f"{other}/train.csv", tmp_path / "scratch", test={"uri": other}).reason is Reason.BAD_DATA


def test_a_name_that_says_two_splits_is_rejected(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "train_test.csv", "a.csv")
    assert failure_of(uri, tmp_path / "scratch").message == (
        f"{uri}/train_test.csv: the name 'train_test.csv' says test and train: rename it, or give each split its own "
        "uri in spec.dataset"
    )


def test_a_fraction_that_files_would_replace_is_rejected(tmp_path: Path) -> None:
    uri = files_in(tmp_path, "train.csv", "test.csv")
    failure = failure_of(uri, tmp_path / "scratch", test={"fraction": 0.2})
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message == (
        f"dataset.test.fraction is 0.2, but {uri} has test files (test.csv): remove the fraction to use them, or set "
        "dataset.train.uri to the training files alone"
    )


def saved(directory: Path, *texts: str, **state: Any) -> None:
    """A data set as save_to_disk of ``datasets`` writes it, with a cache file that does not belong to it."""
    directory.mkdir(parents=True)
    table = pa.table({"text": texts, "label": [1] * len(texts)})
    for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
        with pa.ipc.new_stream(directory / name, table.schema) as writer:
            writer.write_table(table)
    document = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train", **state}
    (directory / "state.json").write_text(json.dumps(document))
    (directory / "dataset_info.json").write_text("{}")


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "ds", "a", "b")
    for uri in (tmp_path.as_uri(), (tmp_path / "ds").as_uri()):
        (file,) = fetched(uri, tmp_path / "scratch").files["train"]
        assert file.kind is FileKind.ARROW
        assert rows_of(file, "text", "label") == [(1, {"text": "a", "label": 1}), (2, {"text": "b", "label": 1})]
        assert file.at(2).endswith("data-00000-of-00001.arrow row 2")


def test_the_splits_of_a_saved_dictionary_are_the_splits(tmp_path: Path) -> None:
    saved(tmp_path / "train", "a")
    saved(tmp_path / "test", "b")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert names(fetched(tmp_path.as_uri(), tmp_path / "scratch")) == {
        "train": ["train/data-00000-of-00001.arrow"],
        "test": ["test/data-00000-of-00001.arrow"],
    }


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"_data_files": [{"filename": "password=hunter2"}]}, " lacks a file, which its saved data set lists"),
        ({"_data_files": [{"filename": "data-2.arrow"}]}, " lacks data-2.arrow, which its saved data set lists"),
        ({"_data_files": "[" * 9}, "/state.json lists no data files: save the data set again"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "/state.json: the saved data set has an indices mapping"),
    ],
)
def test_a_saved_data_set_that_is_not_complete_is_rejected(tmp_path: Path, state: dict[str, Any], problem: str) -> None:
    saved(tmp_path / "ds", "a", **state)
    failure = failure_of((tmp_path / "ds").as_uri(), tmp_path / "scratch")
    assert failure.reason is Reason.BAD_DATA
    assert failure.message.startswith((tmp_path / "ds").as_uri() + problem)


def test_a_split_that_a_saved_dictionary_lacks_is_rejected(tmp_path: Path) -> None:
    saved(tmp_path / "train", "a")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert "lacks test/state.json" in failure_of(tmp_path.as_uri(), tmp_path / "scratch").message
