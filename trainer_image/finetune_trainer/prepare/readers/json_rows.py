"""JSON Lines, and arrays of JSON objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers.text import LONGEST_LINE, lines, pieces
from finetune_trainer.prepare.readers.values import Row, Values, type_name
from finetune_trainer.prepare.sources import DataFile, FileKind

_SPACE = re.compile(r"[ \t\r\n]*")
_DIGITS = 4300
"""Python converts integers of up to this many digits."""
_TOO_DEEP = "the JSON is nested too deeply; correct the row"
LONGEST_START = 64 << 10
"""Characters before the array of a document in which the start of the array must be."""


class _Decoder(json.JSONDecoder):
    """Decodes rows. What is wrong with an object that is valid JSON is noted in ``problem``, and decoding goes on."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_int=self._integer)
        self.problem: BadRow | None = None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.problem = self.problem or BadRow(
                f"the key '{twice[:40]}' occurs twice in an object; remove one of them"
            )
        return found

    def _integer(self, digits: str) -> int:
        if (count := len(digits.lstrip("-"))) > _DIGITS:
            self.problem = self.problem or BadRow(f"a number has {count} digits; correct the row")
            return 0
        return int(digits)

    def row(self, value: object, what: str) -> Values | BadRow:
        """``value`` as a row, once it is decoded."""
        problem, self.problem = self.problem, None
        if not isinstance(value, dict):
            return BadRow(f"the {what} is {type_name(value)}, not a JSON object; write one JSON object per {what}")
        return problem or value


def rows(file: DataFile) -> Iterator[Row]:
    """Iterate over the rows.

    Raises:
        StageFailure: BadData when an array is not valid JSON: then the start of the next row is not known.
    """
    return _of_array(file) if file.kind is FileKind.JSON_ARRAY else _of_lines(file)


def _of_lines(file: DataFile) -> Iterator[Row]:
    decoder = _Decoder()
    for number, (text, problem) in enumerate(lines(file), 1):
        if problem:
            yield number, problem
        elif not text.isspace():
            yield number, _line(decoder, text)


def _line(decoder: _Decoder, text: str) -> Values | BadRow:
    try:
        return decoder.row(decoder.decode(text.rstrip("\r\n")), "line")
    except json.JSONDecodeError as error:
        decoder.problem = None
        return BadRow(f"invalid JSON at column {error.colno} ({error.msg}); write one JSON object per line")
    except RecursionError:
        decoder.problem = None
        return BadRow(_TOO_DEEP)


class _Buffer:
    """The part of an array that is being decoded, and its position in the file."""

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._pieces = pieces(file)
        self._lines_before = 0
        self.text = ""
        self.position = 0
        self.row = 1

    def more(self, characters: int) -> bool:
        """Drop what is consumed, and read at least ``characters`` more; False at the end of the file."""
        self._lines_before += self.text.count("\n", 0, self.position)
        parts = [self.text[self.position :]]
        self.position = 0
        wanted = characters
        while wanted > 0 and (piece := next(self._pieces, "")):
            parts.append(piece)
            wanted -= len(piece)
        self.text = "".join(parts)
        return wanted < characters

    def next_character(self) -> str:
        """The next character that is not white space, without consuming it; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more(1):
                return ""

    def take(self, expected: str) -> bool:
        """Consume the next character if it is ``expected``."""
        if self.next_character() != expected:
            return False
        self.position += 1
        return True

    def invalid(self, reason: str, position: int | None = None) -> StageFailure:
        """The failure for invalid JSON at ``position`` of the text."""
        at = self.position if position is None else position
        line = self._lines_before + self.text.count("\n", 0, at) + 1
        return StageFailure(
            Reason.BAD_DATA,
            f"{self._file.uri}:{line}: row {self.row} of the array is invalid JSON ({reason}): write an array of JSON "
            "objects, or one JSON object per line",
        )


def _of_array(file: DataFile) -> Iterator[Row]:
    buffer, decoder = _Buffer(file), _Decoder()
    buffer.take("[")
    for item in _items(buffer, decoder):
        yield buffer.row, decoder.row(item, "row")
    if buffer.next_character():
        raise buffer.invalid("there is text after the array")


def items_after(file: DataFile, start: re.Pattern[str]) -> Iterator[Values | BadRow]:
    """Iterate over the objects of the array that follows the match of ``start`` at the beginning of the file.

    Raises:
        StageFailure: BadData when the array is not valid JSON.
    """
    buffer, decoder = _Buffer(file), _Decoder()
    buffer.more(LONGEST_START)
    found = start.match(buffer.text)
    assert found is not None, "the format was detected by the same pattern"
    buffer.position = found.end()
    for item in _items(buffer, decoder):
        yield decoder.row(item, "item")


def _items(buffer: _Buffer, decoder: _Decoder) -> Iterator[Any]:
    """The items of an array after its ``[``, to its end."""
    if buffer.take("]"):
        return
    while True:
        yield _item(buffer, decoder)
        if buffer.take("]"):
            return
        if not buffer.take(","):
            raise buffer.invalid("the array is not closed" if not buffer.next_character() else "expecting ',' or ']'")
        buffer.row += 1


def _item(buffer: _Buffer, decoder: _Decoder) -> Any:
    """The next item of the array."""
    buffer.next_character()
    while True:
        try:
            value, end = decoder.raw_decode(buffer.text, buffer.position)
        except json.JSONDecodeError as error:
            decoder.problem = None
            size = len(buffer.text) - buffer.position
            at = error.pos - buffer.position
            # The item may be incomplete. Twice as much text each time keeps the work linear.
            if size <= LONGEST_LINE and buffer.more(max(1 << 16, size)):
                continue
            raise buffer.invalid(error.msg, at) from None
        except RecursionError:
            raise buffer.invalid("it is nested too deeply") from None
        # A number at the end of the text may go on after it.
        if end < len(buffer.text):
            buffer.position = end
            return value
        if not buffer.more(1):
            buffer.position = len(buffer.text)
            return value
