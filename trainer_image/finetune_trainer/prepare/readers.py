"""Read the rows of a data file one by one, each with the number of its first line.

An invalid row is returned as a BadRow in its position, so that the caller can count, drop or reject it. An invalid file
is a StageFailure.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.sources import DataFile, FileKind
from finetune_trainer.storage.errors import explained_path

Values = Mapping[str, Any]
"""Column (or JSON key) to value."""

Row = tuple[int, Values | BadRow]
"""Line or row number from 1, and the row."""

_LOOK_AHEAD = 100
_ROWS_AT_ONCE = 1024
_FIELD_LIMIT = 1 << 30

_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    ((list, tuple), "a list"),
    (dict, "an object"),
    (bytes, "binary data"),
)


def columns_of(file: DataFile) -> tuple[str, ...] | None:
    """Column names: those of the header or schema, or the keys of the first valid JSON row; None without rows.

    Raises:
        StageFailure: BadData when the file does not have its format, or the header has a duplicate column.
    """
    match file.kind:
        case FileKind.PARQUET:
            return tuple(_parquet(file).schema_arrow.names)
        case FileKind.CSV | FileKind.TSV:
            with explained_path(file.path, "read"):
                first = next(_csv_records(file), None)
            return None if first is None else _header(file, *first)
    with explained_path(file.path, "read"):
        for _, (_, values) in zip(range(_LOOK_AHEAD), _json_rows(file), strict=False):
            if not isinstance(values, BadRow):
                return tuple(values)
    return None


def read_rows(file: DataFile, wanted: tuple[str, ...]) -> Iterator[Row]:
    """Iterate over all rows of ``file``, with at least those of the columns ``wanted`` that it has.

    Raises:
        StageFailure: BadData when the file does not have its format.
    """
    with explained_path(file.path, "read"):
        match file.kind:
            case FileKind.JSONL:
                yield from _json_rows(file)
            case FileKind.PARQUET:
                yield from _parquet_rows(file, wanted)
            case _:
                yield from _csv_rows(file)


def _json_rows(file: DataFile) -> Iterator[Row]:
    with file.path.open("rb") as stream:
        for line, raw in enumerate(stream, 1):
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
                if raw.lstrip().startswith(b"["):
                    raise StageFailure(
                        Reason.BAD_DATA, f"{file.at(1)}: the file is a JSON array: write one JSON object per line"
                    )
            if not raw.isspace():
                yield line, _json_object(raw)


def _json_object(raw: bytes) -> Values | BadRow:
    try:
        values = json.loads(raw.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    except json.JSONDecodeError as error:
        return BadRow(f"invalid JSON at column {error.colno} ({error.msg}); write one JSON object per line")
    except (ValueError, RecursionError):
        return BadRow("the JSON is nested too deeply or has a number of thousands of digits; correct the line")
    if not isinstance(values, dict):
        return BadRow(f"the line is {type_name(values)}, not a JSON object; write one JSON object per line")
    return values


def _csv_rows(file: DataFile) -> Iterator[Row]:
    records = _csv_records(file)
    first = next(records, None)
    if first is None:
        return
    header = _header(file, *first)
    for line, fields in records:
        if isinstance(fields, BadRow):
            yield line, fields
        elif len(fields) != len(header):
            yield (
                line,
                BadRow(
                    f"the row has {len(fields)} fields and the header {len(header)}; quote fields that contain a "
                    "delimiter, a quote or a line break"
                ),
            )
        else:
            yield line, dict(zip(header, fields, strict=True))


def _csv_records(file: DataFile) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Records, each with the number of its first line; empty lines are skipped."""
    decoding_problems: list[BadRow] = []

    def lines() -> Iterator[str]:
        for number, raw in enumerate(stream):
            text = raw.removeprefix(codecs.BOM_UTF8) if number == 0 else raw
            try:
                yield text.decode()
            except UnicodeDecodeError as error:
                decoding_problems.append(_not_utf8(error))
                yield text.decode(errors="replace")

    csv.field_size_limit(_FIELD_LIMIT)
    with file.path.open("rb") as stream:
        reader = csv.reader(lines(), delimiter="\t" if file.kind is FileKind.TSV else ",", strict=True)
        while True:
            line = reader.line_num + 1
            try:
                fields: list[str] | BadRow = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fields = BadRow(f"invalid quoting ({error}); double each quote inside a quoted field")
            if decoding_problems:
                fields = decoding_problems[0]
                decoding_problems.clear()
            if fields:
                yield line, fields


def _header(file: DataFile, line: int, fields: list[str] | BadRow) -> tuple[str, ...]:
    if isinstance(fields, BadRow):
        raise StageFailure(Reason.BAD_DATA, f"{file.at(line)}: {fields}")
    names = tuple(name.strip() for name in fields)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise StageFailure(
            Reason.BAD_DATA, f"{file.at(line)}: the header has the column '{duplicate}' twice: rename one of them"
        )
    return names


def _parquet_rows(file: DataFile, wanted: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        table = _parquet(file)
        present = [name for name in table.schema_arrow.names if name in wanted]
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=present):
            columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            for index in range(batch.num_rows):
                number += 1
                yield number, {name: values[index] for name, values in columns.items()}
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(file, error) from None


def _parquet(file: DataFile) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(file, error) from None


def _broken_parquet(file: DataFile, error: Exception) -> Exception:
    """The failure for an invalid file. Arrow's OSError has no errno; one with an errno comes from the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")[:200]
    return StageFailure(Reason.BAD_DATA, f"{file.uri} is not a valid Parquet file ({first}): write it again")


def _not_utf8(error: UnicodeDecodeError) -> BadRow:
    return BadRow(
        f"byte {error.start + 1} of the line (0x{error.object[error.start]:02x}) is not UTF-8; save the file as UTF-8"
    )


def type_name(value: object) -> str:
    """The JSON type of a value with its article, such as ``a string``."""
    return next((words for kinds, words in _TYPE_NAMES if isinstance(value, kinds)), f"a {type(value).__name__}")
