"""Lines of a text file that may be compressed and in any encoding."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.sources import Compression, DataFile, Form

LONGEST_LINE = 64 << 20
"""Bytes of the longest line. A longer one is not a row, and reading it could exhaust the memory."""

_CHUNK = 1 << 20
_REPLACEMENT = "\ufffd"

Line = tuple[str, BadRow | None]
"""A line with its line end, and what is wrong with its bytes; a wrong line is text with replacement characters."""


def open_bytes(path: Path, compression: Compression | None) -> IO[bytes]:
    """Open a file for reading; a compressed one is decompressed on the way."""
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    source: Any = pa.CompressedInputStream(pa.OSFile(str(path)), compression.value)
    return io.BufferedReader(source, _CHUNK)


def lines(file: DataFile) -> Iterator[Line]:
    """Iterate over the lines of a text file, without its byte order mark.

    Raises:
        StageFailure: BadData when the compressed data is corrupt, or UTF-16 ends in the middle of a character.
    """
    form = file.form
    try:
        with open_bytes(file.path, form.compression) as stream:
            stream.read(form.byte_order_mark)
            if form.codec.startswith("utf-16"):
                yield from _wide_lines(file, stream)
            else:
                pieces = _ending_with_lf(stream) if form.line_end == "\n" else _ending_with_cr(stream)
                for raw in pieces:
                    yield _decoded(raw, form)
    except OSError as error:
        raise corrupt(file.uri, form, error) from None


def pieces(file: DataFile) -> Iterator[str]:
    """Iterate over the text in pieces of any length, without the byte order mark.

    Raises:
        StageFailure: BadData when the compressed data is corrupt, or bytes are not in the encoding.
    """
    form = file.form
    decoder = codecs.getincrementaldecoder(form.codec)()
    line, chunk = 1, b""
    try:
        with open_bytes(file.path, form.compression) as stream:
            stream.read(form.byte_order_mark)
            while chunk := stream.read(_CHUNK):
                text = decoder.decode(chunk)
                line += text.count("\n")
                yield text
        yield decoder.decode(b"", final=True)
    except OSError as error:
        raise corrupt(file.uri, form, error) from None
    except UnicodeDecodeError as error:
        before, _, same_line = error.object[: error.start].rpartition(b"\n")
        line += before.count(b"\n") + (b"\n" in error.object[: error.start])
        found = UnicodeDecodeError(error.encoding, same_line + error.object[error.start :], len(same_line), 1, "")
        raise StageFailure(Reason.BAD_DATA, f"{file.uri}:{line}: {wrong_bytes(found, form.codec)}") from None


def corrupt(uri: str, form: Form, error: OSError) -> Exception:
    """The failure for invalid compressed data. Arrow's OSError has no errno; one with an errno comes from the disk."""
    if error.errno is not None or form.compression is None:
        return error
    reason = first_line(error, "the data ends early").rstrip(". ")[:200]
    return StageFailure(
        Reason.BAD_DATA,
        f"{uri} is not a complete {form.compression.value} file ({reason}): compress or upload it again",
    )


def _ending_with_lf(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The lines; None in place of a line that is too long."""
    while raw := stream.readline(LONGEST_LINE):
        if len(raw) < LONGEST_LINE or raw.endswith(b"\n"):
            yield raw
            continue
        while (more := stream.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
            pass
        yield None


def _ending_with_cr(stream: IO[bytes]) -> Iterator[bytes | None]:
    rest = b""
    while chunk := stream.read(_CHUNK):
        *complete, rest = (rest + chunk).split(b"\r")
        yield from (raw + b"\r" for raw in complete)
        if len(rest) > LONGEST_LINE:
            while (chunk := stream.read(_CHUNK)) and b"\r" not in chunk:
                pass
            yield None
            rest = chunk.partition(b"\r")[2]
    if rest:
        yield rest


def _decoded(raw: bytes | None, form: Form) -> Line:
    if raw is None:
        return "", BadRow(f"the line is longer than {LONGEST_LINE >> 20} MiB; split it, or remove it")
    try:
        return raw.decode(form.codec), None
    except UnicodeDecodeError as error:
        return raw.decode(form.codec, errors="replace"), BadRow(wrong_bytes(error, form.codec))


def _wide_lines(file: DataFile, stream: IO[bytes]) -> Iterator[Line]:
    """Lines of UTF-16. Unpaired surrogates are left in the text, where the checks of values find them."""
    number = 0
    try:
        with io.TextIOWrapper(stream, file.form.codec, errors="surrogatepass", newline=file.form.line_end) as text:
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith(file.form.line_end):
                    raise StageFailure(
                        Reason.BAD_DATA,
                        f"{file.at(number)}: the line is longer than {LONGEST_LINE >> 20} MiB: split it",
                    )
                yield line, None
    except UnicodeDecodeError:
        raise StageFailure(
            Reason.BAD_DATA,
            f"{file.at(number + 1)}: the file ends in the middle of a UTF-16 character: upload it again",
        ) from None


def wrong_bytes(error: UnicodeDecodeError, codec: str = "utf-8") -> str:
    """What is wrong with bytes that are not in the encoding ``codec``, and what to do."""
    byte = error.object[error.start]
    where = f"byte {error.start + 1} of the line (0x{byte:02x})"
    if codec != "utf-8":
        return f"{where} is not {codec}; correct dataset.encoding"
    character = bytes([byte]).decode("windows-1252", errors="replace")
    likely = "" if character == _REPLACEMENT else f" (in windows-1252 it is '{character}')"
    return f"{where} is not UTF-8{likely}; save the file as UTF-8, or set dataset.encoding to its encoding"
