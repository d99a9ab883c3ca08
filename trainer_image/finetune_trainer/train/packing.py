"""Packing of several examples into one row by best-fit decreasing."""

from __future__ import annotations

import bisect
from collections import defaultdict

import numpy as np

from finetune_trainer.train.batches import IndexArray


def pack(lengths: IndexArray, row_length: int) -> list[list[int]]:
    """Pack examples into rows of at most ``row_length`` tokens.

    Examples are placed in order of descending length, each into the fullest row that has enough space (best-fit
    decreasing, as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling").

    Args:
        lengths: Tokens of each example, of shape (examples,), each at most ``row_length``.
        row_length: Maximum number of tokens of a row.

    Returns:
        Indices of the examples of each row; every example is in exactly one row.
    """
    rows: list[list[int]] = []
    rows_with_space: defaultdict[int, list[int]] = defaultdict(list)
    spaces: list[int] = []  # The keys of rows_with_space that have rows, sorted.
    for example in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[example])
        position = bisect.bisect_left(spaces, length)
        if position == len(spaces):
            space, row = row_length, len(rows)
            rows.append([])
        else:
            space = spaces[position]
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                del spaces[position]
        rows[row].append(example)
        remaining = space - length
        if remaining > 0:
            if not rows_with_space[remaining]:
                bisect.insort(spaces, remaining)
            rows_with_space[remaining].append(row)
    return rows
