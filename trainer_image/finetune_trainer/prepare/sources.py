"""The files of a data set, as local copies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from finetune_api.spec import Documents
from finetune_trainer.prepared import SourceFile


class FileKind(Enum):
    """Format of a file; the value is its name in messages."""

    JSONL = "JSON lines"
    JSON_ARRAY = "JSON array"
    SQUAD = "SQuAD JSON"
    CSV = "CSV"
    TSV = "tab-separated"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    TEXT = "text"

    @property
    def has_lines(self) -> bool:
        """Whether the position of a row is a line; otherwise it is the number of the row."""
        return self in (FileKind.JSONL, FileKind.CSV, FileKind.TSV, FileKind.TEXT)


TABLES = tuple(kind for kind in FileKind if kind is not FileKind.TEXT)
"""The formats whose rows have columns."""

_DOCUMENTS = {
    Documents.FILE: "each file is a document",
    Documents.BLANK_LINE: "documents between blank lines",
    Documents.LINE: "each line is a document",
}


class Compression(Enum):
    """Compression of a file; the value is its name in Arrow."""

    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become rows, as its content shows."""

    kind: FileKind
    compression: Compression | None = None
    codec: str = "utf-8"
    """Codec of Python; text files only."""
    byte_order_mark: int = 0
    """Bytes before the text."""
    line_end: str = "\n"
    """``\\n``, also for lines that end with ``\\r\\n``, or ``\\r``."""
    separator: str = ","
    """Between the fields of CSV and tab-separated files."""
    quoting: bool = True
    """Whether quotes enclose fields; otherwise they are part of the text, as in IANA's tab-separated values."""
    documents: Documents = Documents.FILE
    """What is one document of a text file."""
    separator_line: bool = False
    """Whether the first line is Excel's ``sep=;``."""

    def __str__(self) -> str:
        parts = [self.kind.value]
        if self.kind is FileKind.CSV and self.separator != ",":
            parts = [f"CSV separated by '{self.separator}'"]
        if self.kind is FileKind.TSV:
            parts = [f"tab-separated with {'quoted fields' if self.quoting else 'literal quotes'}"]
        if self.kind is FileKind.TEXT:
            parts.append(_DOCUMENTS[self.documents])
        if self.codec != "utf-8":
            parts.append(self.codec)
        if self.line_end == "\r":
            parts.append("CR line ends")
        if self.compression:
            parts.append(self.compression.value)
        return ", ".join(parts)


@dataclass(frozen=True)
class DataFile:
    """A local copy of one file of a data set.

    ``name`` is its path relative to the data set's address, ``uri`` its full address, ``size`` is in bytes.
    """

    uri: str
    name: str
    path: Path
    form: Form
    size: int
    sha256: str

    @property
    def kind(self) -> FileKind:
        return self.form.kind

    def at(self, number: int) -> str:
        """The full position of a row for messages: lines, or rows of a file without lines, count from 1."""
        return f"{self.uri}:{number}" if self.kind.has_lines else f"{self.uri} row {number}"

    @property
    def source(self) -> SourceFile:
        """The entry of this file in the data report."""
        return SourceFile(uri=self.uri, size=self.size, sha256=self.sha256, format=str(self.form))
