"""The separator and the quoting of CSV and tab-separated files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_trainer.prepare.readers.text import Line, lines
from finetune_trainer.prepare.sources import DataFile, FileKind, Form

SEPARATORS = (",", ";", "\t", "|")

_SEPARATOR_LINE = re.compile(r"sep=(.)\r*\n?", re.IGNORECASE)
_COMPARED_RECORDS = 20
_JOINS = re.compile(r"[\t\r\n]")
_NEEDS_QUOTES = re.compile(r'[\t\r\n"]')


def detected_dialect(uri: str, path: Path, form: Form, text: str, *, complete: bool) -> Form:
    """``form`` with the separator and the quoting of the file that begins with ``text``.

    Args:
        uri: Address of the file.
        path: Its local copy.
        form: The form as far as it is known.
        text: The first part of the file.
        complete: Whether ``text`` is the whole file.
    """
    if found := _SEPARATOR_LINE.match(text):
        form = replace(form, separator=found[1], separator_line=True)
    elif form.kind is FileKind.TSV:
        form = replace(form, separator="\t")
    else:
        form = replace(form, separator=_separator(text, form, complete))
    if form.separator != "\t":
        return replace(form, kind=FileKind.CSV)
    form = replace(form, kind=FileKind.TSV)
    return replace(form, quoting=_is_quoted(DataFile(uri, path.name, path, form, size=0, sha256="")))


def _separator(text: str, form: Form, complete: bool) -> str:
    """The separator of the header. If several are possible, the one with which the first records have equal lengths."""
    lengths = {separator: _lengths(text, form, separator, complete) for separator in SEPARATORS}
    possible = [separator for separator, found in lengths.items() if found and found[0] > 1]
    if len(possible) < 2:
        return possible[0] if possible else ","
    regular = [separator for separator in possible if len(set(lengths[separator])) == 1]
    return regular[0] if len(regular) == 1 else possible[0]


def _lengths(text: str, form: Form, separator: str, complete: bool) -> list[int]:
    """The number of fields of the first records; a record that ``text`` may cut off does not count."""
    pieces = [piece + form.line_end for piece in text.split(form.line_end)]
    reader = csv.reader(pieces if complete else pieces[:-1], delimiter=separator)
    found = []
    try:
        for fields in reader:
            if fields:
                found.append(len(fields))
            if len(found) > _COMPARED_RECORDS:
                break
    except csv.Error:
        pass
    return found


def _is_quoted(file: DataFile) -> bool:
    """Whether a tab-separated file is written with the quotes of CSV, as by pandas, R and Excel.

    By the format's own rules a quote is text. It encloses a field only if the whole file is as a CSV writer writes it:
    exactly those fields are quoted that the writer must quote. A quote in any other place decides against it, and so
    does a field over several fields or lines if these are complete rows without it.
    """
    literal = _Literal()
    literal.read(lines(file))
    if not literal.has_quotes:
        return True
    writers = list(_WRITERS)
    raw: list[str] = []
    length = None
    try:
        for fields in csv.reader(_recorded(lines(file), raw), delimiter="\t", strict=True):
            written, length = "".join(raw).rstrip("\r\n"), length or len(fields)
            raw.clear()
            if not fields:
                continue
            joined = literal.is_regular and any(map(_JOINS.search, fields))
            writers = [must_quote for must_quote in writers if _written(fields, must_quote) == written]
            if len(fields) != length or joined or not writers:
                return False
    except csv.Error:
        return False
    return True


@dataclass
class _Literal:
    """A tab-separated file whose quotes are text."""

    has_quotes: bool = False
    lengths: set[int] = field(default_factory=set)

    def read(self, source: Iterator[Line]) -> None:
        for text, _ in source:
            self.has_quotes = self.has_quotes or '"' in text
            if not text.isspace():
                self.lengths.add(text.count("\t"))

    @property
    def is_regular(self) -> bool:
        """Whether all rows have the same number of fields."""
        return len(self.lengths) == 1


def _recorded(source: Iterator[Line], raw: list[str]) -> Iterator[str]:
    for text, _ in source:
        raw.append(text)
        yield text


def _written(fields: list[str], must_quote: Callable[[str], bool]) -> str:
    return "\t".join('"' + text.replace('"', '""') + '"' if must_quote(text) else text for text in fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_WRITERS: tuple[Callable[[str], bool], ...] = (
    lambda text: bool(_NEEDS_QUOTES.search(text)),
    lambda text: "," in text or bool(_NEEDS_QUOTES.search(text)),
    lambda _: True,
    lambda text: not _is_number(text),
)
"""Whether a writer of CSV must quote a field: csv.writer and pandas; Excel; QUOTE_ALL; QUOTE_NONNUMERIC and R."""
