"""Text files: what is a document, in which line it begins, and which are invalid."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataEncoding, Documents
from finetune_trainer.prepare.fetch import FetchedData, detectable, fetch_data
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import columns_of, documents
from finetune_trainer.tasks.language_modeling.rows import DocumentRows
from tests.unit.prepare_cases import a_file, a_spec, rows_of

TEXT = "\n \nfirst\r\n\r\nsecond\n  indented\n\n\n\nthird\n\n"


def documents_of(
    path: Path, content: bytes | str, what: Documents, encoding: DataEncoding = DataEncoding.AUTO
) -> list[tuple[int, object]]:
    file = a_file(path, content, encoding)
    found = rows_of(replace(file, form=replace(file.form, documents=what)))
    return [(line, row["text"] if isinstance(row, dict) else row) for line, row in found]


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        (Documents.FILE, [(3, "first\n\nsecond\n  indented\n\n\n\nthird")]),
        (Documents.BLANK_LINE, [(3, "first"), (5, "second\n  indented"), (10, "third")]),
        (Documents.LINE, [(3, "first"), (5, "second"), (6, "  indented"), (10, "third")]),
    ],
)
def test_documents_have_their_first_line_and_lf(tmp_path: Path, what: Documents, rows: list[tuple[int, str]]) -> None:
    assert documents_of(tmp_path / "a.txt", TEXT, what) == rows
    assert documents_of(tmp_path / "b.txt.gz", gzip.compress(TEXT.encode()), what) == rows
    assert documents_of(tmp_path / "c.txt", TEXT.encode("utf-16"), what) == rows
    assert documents_of(tmp_path / "d.txt", TEXT.replace("\r\n", "\n").replace("\n", "\r"), what) == rows


def test_text_files_have_one_column_and_any_encoding(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.txt", "caf\xe9, \xab\xbb".encode("windows-1252"), DataEncoding.WINDOWS_1252)
    assert columns_of(file) == ("text",)
    assert rows_of(file) == [(1, {"text": "café, «»"})]
    assert str(file.form) == "text, each file is a document, windows-1252"


@pytest.mark.parametrize("what", Documents)
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"caf\xe9", "byte 4 of the line (0xe9) is not UTF-8 (in windows-1252 it is 'é')"),
        (b"nul\0", "the line contains a NUL character; remove it"),
    ],
)
def test_invalid_documents_are_reported_with_the_line(
    tmp_path: Path, what: Documents, line: bytes, sentence: str
) -> None:
    found = documents_of(tmp_path / "a.txt", b"one\ntwo\n" + line + b"\n\nfour\n", what)
    wrong = [(number, row) for number, row in found if str(row).startswith(sentence)]
    assert [number for number, _ in wrong] == [3]
    assert len(found) == {Documents.FILE: 1, Documents.BLANK_LINE: 2, Documents.LINE: 4}[what]


def test_unpaired_surrogates_are_invalid(tmp_path: Path) -> None:
    content = b"\xff\xfe" + "one\n".encode("utf-16-le") + b"\x3d\xd8" + "\n".encode("utf-16-le")
    found = documents_of(tmp_path / "a.txt", content, Documents.FILE)
    assert found == [(2, "the line contains an unpaired surrogate, such as \\ud83d; correct the row")]


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_an_invalid_document_but_has_no_lines(tmp_path: Path, content: str) -> None:
    found = documents_of(tmp_path / "a.txt", content, Documents.FILE)
    assert found == [(1, "the file contains no text; add a document or remove the file")]
    assert documents_of(tmp_path / "a.txt", content, Documents.LINE) == []
    assert documents_of(tmp_path / "a.txt", content, Documents.BLANK_LINE) == []


def test_a_document_without_end_is_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LONGEST", 8)
    ((line, row),) = documents_of(tmp_path / "a.txt", "one\ntwo\nthree\n", Documents.FILE)
    assert line == 1
    assert "divide it, or set dataset.documents" in str(row)
    assert len(documents_of(tmp_path / "a.txt", "one\ntwo\nthree\n", Documents.LINE)) == 3


def test_rows_of_other_formats_have_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = DocumentRows("text")
    assert schema.example({"text": "x" * 9}).text == "x" * 9
    monkeypatch.setattr("finetune_trainer.tasks.language_modeling.rows.LONGEST", 8)
    with pytest.raises(BadRow, match="divide it"):
        schema.example({"text": "x" * 9})


def fetched(train: str, scratch: Path, task: str = "LanguageModeling", **dataset: object) -> FetchedData:
    spec = a_spec(task, dataset={"train": {"uri": train}, **dataset})
    return fetch_data(spec.dataset, scratch, detectable(spec.task.type.row.formats))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a\n")
    return tmp_path / "data"


def test_text_files_of_a_directory_are_documents(folder: Path, tmp_path: Path) -> None:
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"b\n"))
    (folder / "test.txt").write_text("c\n")
    found = fetched(folder.as_uri(), tmp_path, documents="Line")
    assert [file.name for file in found.files["train"]] == ["a.txt", "b.txt.gz"]
    assert [file.name for file in found.files["test"]] == ["test.txt"]
    assert {str(file.form) for file in found.files["test"]} == {"text, each line is a document"}
    assert found.more == "add data"
    assert "dataset.documents" in fetched(folder.as_uri(), tmp_path).more


def test_text_files_beside_tables_are_not_read_but_noted(folder: Path, tmp_path: Path) -> None:
    (folder / "b.jsonl").write_text('{"text": "b"}\n')
    found = fetched(folder.as_uri(), tmp_path)
    assert [file.name for file in found.files["train"]] == ["b.jsonl"]
    assert found.notes == (
        "not read, because other data files are beside them: a.txt; dataset.format: Text reads them",
    )
    assert [file.name for file in fetched(folder.as_uri(), tmp_path, format="Text").files["train"]] == ["a.txt"]


def test_other_tasks_do_not_read_text_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"The format of .*a\.txt is not clear from its name") as refusal:
        fetched((folder / "a.txt").as_uri(), tmp_path, task="TextClassification")
    assert ".txt," not in refusal.value.message.partition("end in")[2]
    assert fetched((folder / "a.txt").as_uri(), tmp_path, task="TextClassification", format="CSV").files["train"]
    with pytest.raises(StageFailure, match=r"has no file that ends in .*, only a\.txt"):
        fetched(folder.as_uri(), tmp_path, task="TextClassification")


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("b.jsonl", {"documents": "Line"}, "dataset.documents is set, but .* has no text files"),
        ("a.txt", {"columns": {"text": "body"}}, "dataset.columns is set, but .* has text files, without columns"),
    ],
)
def test_settings_without_an_effect_are_refused(
    folder: Path, tmp_path: Path, name: str, settings: dict[str, object], sentence: str
) -> None:
    (folder / "b.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(StageFailure, match=sentence) as refusal:
        fetched((folder / name).as_uri(), tmp_path, **settings)
    assert refusal.value.reason is Reason.BAD_CONFIGURATION
