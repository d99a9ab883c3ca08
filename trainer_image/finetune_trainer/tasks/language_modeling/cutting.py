"""Where documents are cut: into training rows, and into windows of the evaluation. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def row_bounds(lengths: Positions, most: int) -> Positions:
    """Cut joined documents into rows of nearly equal length.

    Every token is in exactly one row. No row begins with the end of a document, because the first token of a row is
    not predicted, and every end is to be learned.

    Args:
        lengths: Tokens of each document including its end, of shape (documents,), each at least 2.
        most: Maximum number of tokens of a row, at least 8.

    Returns:
        The position at which each row begins, and the end of the last one, of shape (rows + 1,).
    """
    total = int(lengths.sum())
    ends = np.cumsum(lengths) - 1
    for rows in (-(-total // most), -(-total // (most - 1))):
        bounds = np.arange(rows + 1, dtype=np.int64) * total // rows
        inner = bounds[1:-1]
        inner += ends[np.searchsorted(ends, inner)] == inner
        if np.diff(bounds).max() <= most:
            break
    # In the second turn there was room for one more token in each row.
    return bounds


def windows(total: int, first: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Windows over a document of which the tokens from ``first`` on are predicted, each in one window.

    Args:
        total: Tokens of the document, with those before its text.
        first: The first token to predict, at least 1.
        most: Maximum number of tokens of a window.

    Yields:
        The first token of a window, the one after its last, and the first that is predicted in it. Windows after the
        first have at least ``most // 2`` tokens before that.
    """
    stop = min(total, most)
    yield 0, stop, first
    while stop < total:
        predicted = stop
        stop = min(total, stop + most - most // 2)
        yield stop - most, stop, predicted
