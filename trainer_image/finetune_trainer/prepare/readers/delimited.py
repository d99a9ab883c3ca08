"""Rows of CSV and tab-separated files."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers.text import LONGEST_LINE, Line, lines
from finetune_trainer.prepare.readers.values import Row
from finetune_trainer.prepare.sources import DataFile

csv.field_size_limit(LONGEST_LINE)

_Record = tuple[int, int, list[str] | BadRow]
"""First and last line, and the fields or what is wrong."""


def columns(file: DataFile) -> tuple[str, ...] | None:
    """The names in the header; None for an empty file.

    Raises:
        StageFailure: BadData when the header is invalid or has a column twice.
    """
    first = next(_records(file), None)
    return None if first is None else _header(file, first)


def rows(file: DataFile) -> Iterator[Row]:
    """Iterate over the rows after the header; empty lines are skipped."""
    records = _records(file)
    first = next(records, None)
    if first is None:
        return
    header = _header(file, first)
    for line, last, fields in records:
        if isinstance(fields, BadRow):
            yield line, fields
        elif len(fields) != len(header):
            yield line, _ragged(fields, header, line, last)
        else:
            yield line, dict(zip(header, fields, strict=True))


class _Lines:
    """The lines of a file for `csv.reader`, which notes what it has read for the current record."""

    def __init__(self, source: Iterator[Line]) -> None:
        self._source = source
        self.number = 0
        self.of_record: list[str] = []
        self.problem: BadRow | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        text, problem = next(self._source)
        self.number += 1
        self.of_record.append(text)
        self.problem = self.problem or problem
        return text


def _records(file: DataFile) -> Iterator[_Record]:
    form = file.form
    source = _Lines(lines(file))
    if form.separator_line:
        next(source)
    reader = csv.reader(
        source,
        delimiter=form.separator,
        quoting=csv.QUOTE_MINIMAL if form.quoting else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        first = source.number + 1
        source.of_record, source.problem = [], None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield from _lost(first, source, error)
            continue
        if source.problem:
            yield first, source.number, source.problem
        elif fields:
            yield first, source.number, fields


def _lost(first: int, source: _Lines, error: csv.Error) -> Iterator[_Record]:
    """Every line of a record with invalid quoting: each may be a row that an open quote has swallowed."""
    problem = source.problem or BadRow(_explained(error))
    yield first, source.number, problem
    for line, text in enumerate(source.of_record[1:], first + 1):
        if not text.isspace():
            yield line, line, BadRow(f"the line follows the open quote in line {first}; close that quote")


def _explained(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "there is a carriage return in a field without quotes; quote the field, or remove the character"
    return f"invalid quoting ({error}); double each quote inside a quoted field"


def _ragged(fields: list[str], header: tuple[str, ...], line: int, last: int) -> BadRow:
    lines_of_row = f", which goes on to line {last}," if last > line else ""
    return BadRow(
        f"the row{lines_of_row} has {len(fields)} field{'' if len(fields) == 1 else 's'} and the header {len(header)}; "
        + (
            "add the missing ones, or close a quote that takes in a delimiter"
            if len(fields) < len(header)
            else "quote fields that contain a delimiter, a quote or a line break"
        )
    )


def _header(file: DataFile, first: _Record) -> tuple[str, ...]:
    line, _, fields = first
    if isinstance(fields, BadRow):
        raise StageFailure(Reason.BAD_DATA, f"{file.at(line)}: {fields}")
    names = tuple(name.strip() for name in fields)
    # Spreadsheets write empty columns at the end, without a name.
    duplicate = next((name for name in names if name and names.count(name) > 1), None)
    if duplicate is not None:
        raise StageFailure(
            Reason.BAD_DATA, f"{file.at(line)}: the header has the column '{duplicate[:40]}' twice: rename one of them"
        )
    return names
