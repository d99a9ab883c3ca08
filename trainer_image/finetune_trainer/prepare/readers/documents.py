"""Documents of text files: the whole file, what is between blank lines, or each line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from finetune_api.spec import Documents
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers.text import lines
from finetune_trainer.prepare.readers.values import Row, wrong_characters
from finetune_trainer.prepare.sources import DataFile

TEXT = "text"
COLUMNS = (TEXT,)
"""Columns of the rows: one a document."""

LONGEST = 16_000_000
"""Characters of the longest document. Its tokenisation takes about 2 GB of memory."""

_Numbered = tuple[int, str, BadRow | None]
"""Number of a line from 1, the line without its end, and what is wrong with it."""


def rows(file: DataFile) -> Iterator[Row]:
    """Iterate over the documents. Their position is their first line; that of an invalid one is the line in question.

    Line ends become ``\\n``. Blank lines around a document are not part of it.

    Raises:
        StageFailure: BadData when the compressed data is corrupt, or UTF-16 ends in the middle of a character.
    """
    match file.form.documents:
        case Documents.LINE:
            for line in _numbered(file):
                if not _is_blank(line):
                    yield _document([line])
        case Documents.BLANK_LINE:
            for blank, group in groupby(_numbered(file), _is_blank):
                if not blank:
                    yield _document(group)
        case Documents.FILE:
            yield _document(_trimmed(_numbered(file)))


def too_long() -> str:
    """What is wrong with a document of more than `LONGEST` characters, and what to do."""
    return f"the document has more than {LONGEST:,} characters; divide it"


def _numbered(file: DataFile) -> Iterator[_Numbered]:
    for number, (text, problem) in enumerate(lines(file), 1):
        content = text.removesuffix(file.form.line_end).removesuffix("\r")
        wrong = wrong_characters(content)
        yield number, content, problem or (BadRow(f"the line {wrong}") if wrong else None)


def _is_blank(line: _Numbered) -> bool:
    _, text, problem = line
    return problem is None and (not text or text.isspace())


def _trimmed(found: Iterator[_Numbered]) -> Iterator[_Numbered]:
    """``found`` without the blank lines at the beginning and the end."""
    blank: list[_Numbered] = []
    begun = False
    for line in found:
        if not _is_blank(line):
            yield from blank
            yield line
            blank, begun = [], True
        elif begun:
            blank.append(line)


def _document(found: Iterator[_Numbered] | list[_Numbered]) -> Row:
    """One row for all lines ``found``, which are read to the end also if one of them is wrong."""
    first, size = 1, 0
    wrong: tuple[int, BadRow] | None = None
    parts: list[str] = []
    for number, text, problem in found:
        if not parts:
            first = number
        if problem and wrong is None:
            wrong = number, problem
        size += len(text) + 1
        if size <= LONGEST:
            parts.append(text)
    if wrong:
        return wrong
    if size > LONGEST:
        return first, BadRow(f"{too_long()}, or set dataset.documents to what is one document")
    if not parts:
        return first, BadRow("the file contains no text; add a document or remove the file")
    return first, {TEXT: "\n".join(parts)}
