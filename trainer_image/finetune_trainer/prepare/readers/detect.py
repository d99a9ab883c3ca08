"""Find out from the content of a file how its bytes become rows.

Nothing is guessed: an encoding without a byte order mark is UTF-8 unless the spec names another, and a separator other
than the comma is used only where the comma does not separate the header.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataEncoding
from finetune_trainer.prepare.readers.dialect import detected_dialect
from finetune_trainer.prepare.readers.squad import START
from finetune_trainer.prepare.readers.text import corrupt, open_bytes
from finetune_trainer.prepare.sources import Compression, FileKind, Form
from finetune_trainer.storage.errors import explained_path

HEAD_BYTES = 64 << 10

_COMPRESSIONS = {b"\x1f\x8b": Compression.GZIP, b"\x28\xb5\x2f\xfd": Compression.ZSTD}
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or export the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "export the sheet as CSV"),
    (b"BZh", "compressed with bzip2", "compress it with gzip or zstd instead"),
    (b"\xfd7zXZ\x00", "compressed with xz", "compress it with gzip or zstd instead"),
    (b"PAR1", "a Parquet file", "rename it to end in .parquet, or set dataset.format to Parquet"),
    (b"ARROW1", "an Arrow file", "rename it to end in .arrow"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"%PDF-", "a PDF document", "extract the examples as CSV or JSON lines"),
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODECS = {
    # The variants that Windows writes under these names; they extend the standards.
    DataEncoding.SHIFT_JIS: "cp932",
    DataEncoding.BIG5: "cp950",
    DataEncoding.EUC_KR: "cp949",
    DataEncoding.MACINTOSH: "mac-roman",
}
_LINE_END = re.compile(r"\r+\n|\n|\r")
_QUOTED = re.compile(r'"[^"]*"')
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_CERTAINLY_UTF8 = 4
"""Non-ASCII characters after which valid UTF-8 is no accident."""


@dataclass(frozen=True)
class _Head:
    """The first bytes of a file, decompressed."""

    uri: str
    content: bytes
    complete: bool


def detected_form(uri: str, path: Path, kind: FileKind, encoding: DataEncoding) -> Form:
    """How the bytes of the file at ``path`` become rows.

    Args:
        uri: Its address, for messages.
        path: The local copy.
        kind: The format that its name or the spec says.
        encoding: The encoding in the spec.

    Raises:
        StageFailure: BadData when the content has another format or is corrupt, BadConfiguration when it contradicts
            the encoding.
    """
    if kind in (FileKind.PARQUET, FileKind.ARROW):
        return Form(kind)
    with explained_path(path, "read"):
        form = Form(kind, compression=_compression(path))
        head = _head(uri, path, form)
        for magic, found, remedy in _OTHER_FORMATS:
            if head.content.startswith(magic):
                raise StageFailure(Reason.BAD_DATA, f"{uri} is {found}, not a {kind.value} file: {remedy}")
        form = _with_encoding(form, head, encoding)
        text = _text(form, head)
        form = replace(form, line_end=_line_end(text if kind is FileKind.TEXT else _QUOTED.sub("", text)))
        if kind is FileKind.TEXT:
            return form
        if kind is FileKind.JSONL:
            return _with_json_kind(form, uri, text)
        return detected_dialect(uri, path, form, text, complete=head.complete)


def _compression(path: Path) -> Compression | None:
    """The compression, from the content: storage and browsers decompress files without changing their names."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return next((compression for magic, compression in _COMPRESSIONS.items() if start.startswith(magic)), None)


def _head(uri: str, path: Path, form: Form) -> _Head:
    try:
        with open_bytes(path, form.compression) as stream:
            content = stream.read(HEAD_BYTES)
            return _Head(uri, content, complete=not stream.read(1))
    except OSError as error:
        raise corrupt(uri, form, error) from None


def _with_encoding(form: Form, head: _Head, encoding: DataEncoding) -> Form:
    content = head.content
    mark, codec = next(((mark, codec) for mark, codec in _BYTE_ORDER_MARKS if content.startswith(mark)), (b"", ""))
    if codec == "utf-32":
        raise StageFailure(Reason.BAD_DATA, f"{head.uri} is UTF-32: save it as UTF-8")
    if codec:
        return replace(form, codec=codec, byte_order_mark=len(mark))
    if encoding in (DataEncoding.AUTO, DataEncoding.UTF_16) and (wide := _utf_16(content)):
        return replace(form, codec=wide)
    if encoding is DataEncoding.UTF_16 and content:
        raise _contradiction(head, "not UTF-16", encoding)
    if encoding in (DataEncoding.AUTO, DataEncoding.UTF_8, DataEncoding.UTF_16):
        return form
    if _certainly_utf8(head):
        raise _contradiction(head, "UTF-8", encoding)
    return replace(form, codec=_CODECS.get(encoding, encoding.value.lower()))


def _utf_16(content: bytes) -> str | None:
    """The byte order of UTF-16 without a mark; None if it is not UTF-16. Headers and JSON begin with ASCII."""
    are_zero = [byte == 0 for byte in content[:2]]
    if are_zero == [True, False]:
        return "utf-16-be"
    return "utf-16-le" if are_zero == [False, True] else None


def _certainly_utf8(head: _Head) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head.content, final=head.complete)
    except UnicodeDecodeError:
        return False
    return len(_UTF8_SEQUENCE.findall(head.content)) >= _CERTAINLY_UTF8


def _contradiction(head: _Head, found: str, encoding: DataEncoding) -> StageFailure:
    return StageFailure(
        Reason.BAD_CONFIGURATION,
        f"{head.uri} is {found}, but dataset.encoding is {encoding}: remove dataset.encoding, or save all files of the "
        "data set in the same encoding",
    )


def _text(form: Form, head: _Head) -> str:
    decoder = codecs.getincrementaldecoder(form.codec)(errors="replace")
    return decoder.decode(head.content[form.byte_order_mark :], final=head.complete)


def _line_end(text: str) -> str:
    """CR if ``text``, which is without the fields in quotes, has no other line end."""
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _with_json_kind(form: Form, uri: str, text: str) -> Form:
    start = text.lstrip()
    if start.startswith("["):
        return replace(form, kind=FileKind.JSON_ARRAY)
    if START.match(start) and '"paragraphs"' in start:
        return replace(form, kind=FileKind.SQUAD)
    if start.startswith("{") and _LINE_END.split(start, maxsplit=1)[0].strip() == "{":
        raise StageFailure(
            Reason.BAD_DATA,
            f"{uri}:1: the file is a JSON object over several lines: write one JSON object per line, or an array of "
            "objects",
        )
    return form
