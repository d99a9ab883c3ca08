"""The logical lines of a Python program, which may be incomplete or wrong.

The standard library's tokenizer raises exceptions on such programs, and other ones in each version of Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PIECE = re.compile(
    r"(?P<comment>#[^\n]*)"
    r"|(?P<long>\"\"\"|''')"
    r"|(?P<string>\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?)"
    r"|(?P<open>[(\[{])"
    r"|(?P<close>[)\]}])"
    r"|(?P<joined>\\\r?\n)"
    r"|(?P<end>\n)",
    re.DOTALL,
)
_LONG_ENDS = {quote: re.compile(rf"(?:\\.|[^\\])*?{quote}", re.DOTALL) for quote in ('"""', "'''")}
_INDENT = "    "
_CONTINUES = re.compile(r"(else|elif|except|finally)\b")
"""Statements that continue the one before them."""


@dataclass(frozen=True)
class Line:
    """A logical line: a statement, or a header such as ``if x:``. Blank lines and comments are none."""

    start: int
    """Index of the first character of the line, its indentation included."""
    text: str
    """From there to its end, without a comment at the end."""
    complete: bool
    """Whether it has ended: not within brackets, a string or a continued line."""

    @property
    def indent(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip(" \t\f"))]

    @property
    def opens_block(self) -> bool:
        """Whether an indented block has to follow."""
        return self.complete and self.text.rstrip().endswith(":")


def logical_lines(code: str) -> list[Line]:
    """The logical lines of ``code``, in order."""
    lines: list[Line] = []
    start = position = depth = 0
    kept: list[str] = []  # The pieces of the current line without comments.

    def end_line(at: int, complete: bool) -> None:
        nonlocal start, kept
        text = "".join(kept)
        if text.strip():
            lines.append(Line(start, text, complete))
        start, kept = at, []

    while found := _PIECE.search(code, position):
        kept.append(code[position : found.start()])
        position = found.end()
        match found.lastgroup:
            case "comment":
                continue
            case "end" if depth == 0:
                end_line(position, complete=True)
                continue
            case "open":
                depth += 1
            case "close":
                depth = max(0, depth - 1)
            case "long":
                closed = _LONG_ENDS[found[0]].match(code, position)
                if closed is None:
                    kept.append(code[found.start() :])
                    end_line(len(code), complete=False)
                    return lines
                kept.append(found[0] + closed[0])
                position = closed.end()
                continue
        kept.append(found[0])
    kept.append(code[position:])
    joined = code.rstrip(" \t").endswith(("\\", "\\\n", "\\\r\n"))
    end_line(len(code), complete=depth == 0 and not joined)
    return lines


def leaves_block_open(code: str) -> bool:
    """Whether the last statement of ``code`` is inside an indented block, or needs one after it."""
    lines = logical_lines(code)
    return bool(lines) and (bool(lines[-1].indent) or lines[-1].opens_block)


def block_end(code: str, start: int) -> int:
    """Index of the first line from ``start`` on that begins a statement at top level; the end of ``code`` if none."""
    lines = (line for line in logical_lines(code) if line.start >= start)
    return next((line.start for line in lines if not line.indent and not _CONTINUES.match(line.text)), len(code))


def empty_bodies(code: str) -> tuple[str, ...]:
    """What may complete ``code`` without doing anything: nothing, or ``pass`` in the block that it leaves open."""
    lines = logical_lines(code)
    indent = (lines[-1].indent if lines else "") + _INDENT
    break_ = "" if code.endswith("\n") or not code else "\n"
    return "", f"{break_}{indent}pass\n", "pass\n", " pass\n"
