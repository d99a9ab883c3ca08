"""Encodings, compression and line ends of text files."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataEncoding
from tests.unit.prepare_cases import a_file, rows_of

CSV = "text,label\nGrüße,ä\nx,y\n"
JSON = '{"text": "Grüße", "label": "ä"}\n{"text": "x", "label": "y"}\n'
ROWS = [{"text": "Grüße", "label": "ä"}, {"text": "x", "label": "y"}]


@pytest.mark.parametrize(("name", "content"), [("a.csv", CSV), ("a.jsonl", JSON), ("a.json", f"[{JSON[:-1]}]")])
@pytest.mark.parametrize(
    ("encode", "words"),
    [
        (lambda text: text.encode(), ""),
        (lambda text: codecs.BOM_UTF8 + text.encode(), ""),
        (lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"), ", utf-16-le"),
        (lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"), ", utf-16-be"),
        (lambda text: text.encode("utf-16-le"), ", utf-16-le"),
        (lambda text: text.encode("utf-16-be"), ", utf-16-be"),
    ],
)
def test_unicode_is_read_without_a_setting(tmp_path: Path, name: str, content: str, encode, words: str) -> None:
    file = a_file(tmp_path / name, encode(content.replace("}\n{", "},\n{") if name == "a.json" else content))
    assert [values for _, values in rows_of(file)] == ROWS
    assert str(file.form) == file.kind.value + words


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        (DataEncoding.WINDOWS_1252, "cp1252"),
        (DataEncoding.MACINTOSH, "mac-roman"),
        (DataEncoding.ISO_8859_15, "iso8859-15"),
        (DataEncoding.UTF_16, "utf-16-le"),
        (DataEncoding.UTF_16, "utf-16"),
        (DataEncoding.WINDOWS_1252, "utf-8-sig"),
    ],
)
def test_the_encoding_of_the_spec_is_used_where_no_byte_order_mark_contradicts(
    tmp_path: Path, encoding: DataEncoding, codec: str
) -> None:
    assert [values for _, values in rows_of(a_file(tmp_path / "a.csv", CSV.encode(codec), encoding))] == ROWS


@pytest.mark.parametrize("encoding", [name for name in DataEncoding if name not in ("Auto", "UTF-8", "UTF-16")])
def test_every_encoding_of_the_spec_exists(tmp_path: Path, encoding: DataEncoding) -> None:
    assert rows_of(a_file(tmp_path / "a.csv", b"text\nx\n", encoding)) == [(2, {"text": "x"})]


def test_bytes_that_are_not_in_the_encoding_make_their_row_invalid(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.csv", b"text,label\n\x81,a\nx,y\n", DataEncoding.WINDOWS_1252)
    assert rows_of(file)[0] == (2, "byte 1 of the line (0x81) is not windows-1252; correct dataset.encoding")


@pytest.mark.parametrize(
    ("encoding", "found"), [(DataEncoding.WINDOWS_1252, "UTF-8"), (DataEncoding.UTF_16, "not UTF-16")]
)
def test_an_encoding_that_the_file_contradicts_is_rejected(tmp_path: Path, encoding: DataEncoding, found: str) -> None:
    with pytest.raises(StageFailure) as failure:
        a_file(tmp_path / "a.csv", ("text,label\n" + "Grüße,ä\n" * 3).encode(), encoding)
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert failure.value.message == (
        f"s3://data/a.csv is {found}, but dataset.encoding is {encoding}: remove dataset.encoding, or save all files "
        "of the data set in the same encoding"
    )


def test_utf16_that_ends_in_a_character_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"s3://data/a\.csv:3: the file ends in the middle of a UTF-16 character"):
        rows_of(a_file(tmp_path / "a.csv", "text,label\na,b\nc,d".encode("utf-16")[:-1]))


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.csv"])
def test_compressed_files_are_recognised_by_their_content(tmp_path: Path, name: str, compress) -> None:
    file = a_file(tmp_path / name, compress(CSV[:20].encode()) + compress(CSV[20:].encode()))
    assert [values for _, values in rows_of(file)] == ROWS
    assert str(file.form) in ("CSV, gzip", "CSV, zstd")
    assert [values for _, values in rows_of(a_file(tmp_path / name, CSV))] == ROWS


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data + b"more"])
def test_damaged_compressed_files_are_rejected(tmp_path: Path, codec: str, damage) -> None:
    lines = "".join(f'{{"text": "{number}"}}\n' for number in range(30_000))
    data = gzip.compress(lines.encode(), 1) if codec == "gzip" else pa.compress(lines.encode(), codec, asbytes=True)
    with pytest.raises(StageFailure) as failure:
        rows_of(a_file(tmp_path / "a.jsonl", damage(data)))
    assert failure.value.reason is Reason.BAD_DATA
    assert failure.value.message.startswith(f"s3://data/a.jsonl is not a complete {codec} file (")
    assert failure.value.message.endswith("): compress or upload it again")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04", "a ZIP archive or an Excel workbook, not a CSV file: unpack it, or export the sheet as CSV"),
        (b"BZh9", "compressed with bzip2, not a CSV file: compress it with gzip or zstd instead"),
        (b"PAR1", "a Parquet file, not a CSV file: rename it to end in .parquet, or set dataset.format to Parquet"),
    ],
)
def test_other_formats_are_rejected_by_name(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(StageFailure) as failure:
        a_file(tmp_path / "a.csv", content)
    assert failure.value.message == f"s3://data/a.csv is {problem}"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_all_line_ends_are_read(tmp_path: Path, end: str) -> None:
    file = a_file(tmp_path / "a.csv", CSV.replace("\n", end))
    assert rows_of(file) == [(2, ROWS[0]), (3, ROWS[1])]


def test_a_carriage_return_in_a_field_does_not_split_the_row(tmp_path: Path) -> None:
    assert rows_of(a_file(tmp_path / "a.csv", 'text,label\n"a\rb",c\nd\re,f\n')) == [
        (2, {"text": "a\rb", "label": "c"}),
        (3, "there is a carriage return in a field without quotes; quote the field, or remove the character"),
    ]


def test_a_line_feed_in_a_field_of_a_file_with_carriage_returns_is_text(tmp_path: Path) -> None:
    found = rows_of(a_file(tmp_path / "a.csv", 'text,label\r"a\nb",c\rd,e\r'))
    assert found == [(2, {"text": "a\nb", "label": "c"}), (3, {"text": "d", "label": "e"})]


def test_a_line_that_is_too_long_is_one_invalid_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.prepare.readers.text.LONGEST_LINE", 64)
    content = '{"a": 1}\n{"a": "' + "x" * 200 + '"}\n{"a": 2}\n'
    assert [number for number, _ in rows_of(a_file(tmp_path / "a.jsonl", content))] == [1, 2, 3]
    assert rows_of(a_file(tmp_path / "a.jsonl", content))[1] == (
        2,
        "the line is longer than 0 MiB; split it, or remove it",
    )
