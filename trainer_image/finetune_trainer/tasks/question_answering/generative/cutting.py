"""Cuts contexts to the room that a model has for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from finetune_trainer.tasks.question_answering.positions import Span

Fit = Callable[[Sequence[str]], list[bool]]
"""Whether there is room for each of these sources; for a longer text, there never is if there is none for a shorter."""

_WORD = 30
"""Characters of a context at most that are given up so that it does not end inside a word."""

_SPACE = re.compile(r"\s")


def largest(sizes: Sequence[int], source: Callable[[int, int], str], fit: Fit) -> list[int]:
    """For each row, the largest size up to that in ``sizes`` whose source fits; -1 if not even size 0 does.

    The rows are searched together, so that each step tokenises them in one batch.

    Args:
        sizes: The largest size of each row.
        source: The source of a row, by its index and size.
        fit: Whether sources fit.
    """
    low, high = [-1] * len(sizes), list(sizes)
    tried = high
    while open_rows := [row for row in range(len(sizes)) if low[row] < high[row]]:
        found = fit([source(row, tried[row]) for row in open_rows])
        for row, fits in zip(open_rows, found, strict=True):
            low[row], high[row] = (tried[row], high[row]) if fits else (low[row], tried[row] - 1)
        tried = [(lower + upper + 1) // 2 for lower, upper in zip(low, high, strict=True)]
    return low


def head(context: str, size: int) -> str:
    """The beginning of a context, of at most ``size`` characters."""
    return context[: _end(context, size)].rstrip()


def around(context: str, span: Span, size: int) -> str:
    """A part of a context that reaches up to ``size`` characters beyond ``span`` on both sides."""
    start, end = _start(context, span.start, size), _end(context, min(len(context), span.end + size), span.end)
    return context[start:end].strip()


def _start(context: str, first: int, size: int) -> int:
    """Where a part begins: at a word, if one begins soon."""
    start = max(0, first - size)
    if start == 0:
        return 0
    space = _SPACE.search(context, start - 1, min(first, start + _WORD))
    return space.end() if space else start


def _end(context: str, end: int, least: int = 0) -> int:
    """Where a part ends: after a word, if one ends shortly before; not before ``least``."""
    if end >= len(context) or _SPACE.match(context, end):
        return end
    least = max(least, end - _WORD)
    spaces = [space.start() for space in _SPACE.finditer(context, least, end)]
    return spaces[-1] if spaces else end
