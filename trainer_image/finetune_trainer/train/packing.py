"""Packing: several conversations in one row, best fit decreasing."""

from __future__ import annotations

import bisect
from collections import defaultdict

import numpy as np

from finetune_trainer.train.batches import IndexArray


def pack(lengths: IndexArray, row_length: int) -> list[list[int]]:
    """Distribute examples over rows of at most ``row_length`` tokens, longest first, each into the fullest row it fits.

    Args:
        lengths: Tokens of each example, shape (examples,), each at most ``row_length``.
        row_length: Tokens of a row.

    Returns:
        Indices of the examples of each row; every example is in exactly one row.

    Source: best-fit decreasing, as used for packing by Ding et al. 2024, "Fewer Truncations Improve Language Modeling".
    """
    rows: list[list[int]] = []
    rows_with_space: defaultdict[int, list[int]] = defaultdict(list)
    spaces: list[int] = []  # Sorted, without duplicates: the keys of rows_with_space that have rows.
    for example in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[example])
        place = bisect.bisect_left(spaces, length)
        if place == len(spaces):
            space, row = row_length, len(rows)
            rows.append([])
        else:
            space = spaces[place]
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                del spaces[place]
        rows[row].append(example)
        left = space - length
        if left > 0:
            if not rows_with_space[left]:
                bisect.insort(spaces, left)
            rows_with_space[left].append(row)
    return rows
