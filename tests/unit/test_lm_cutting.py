"""LanguageModeling: where documents are cut into rows and windows."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.tasks.language_modeling.cutting import row_bounds, windows


def rows_of(lengths: list[int], most: int) -> list[int]:
    """The lengths of the rows."""
    return np.diff(row_bounds(np.array(lengths, np.int64), most)).tolist()


@pytest.mark.parametrize(
    ("lengths", "most", "rows"),
    [
        ([3, 4, 2], 16, [9]),
        ([4, 5], 8, [4, 5]),
        ([9], 8, [4, 5]),
        ([8], 8, [8]),
        ([16], 8, [8, 8]),
        ([4, 6, 3, 8, 2, 5], 8, [7, 7, 7, 7]),
        # A row would begin with the end of the first document: there is room in the row before it.
        ([5, 6], 8, [5, 6]),
        # There is none, and one more row makes some.
        ([9, 7], 8, [5, 5, 6]),
    ],
)
def test_rows_have_nearly_equal_lengths(lengths: list[int], most: int, rows: list[int]) -> None:
    assert rows_of(lengths, most) == rows


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_in_one_row_and_no_row_begins_with_an_end(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, draw.integers(3, 60), draw.integers(1, 400))
    most = int(draw.integers(8, 40))
    bounds = row_bounds(lengths, most)
    rows = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, lengths.sum())
    assert rows.max() <= most
    assert rows.min() >= min(2, lengths.sum())
    assert rows.max() - rows.min() <= 3
    assert len(rows) <= -(-lengths.sum() // (most - 1))
    assert not set(bounds[1:-1].tolist()) & set((np.cumsum(lengths) - 1).tolist())


@pytest.mark.parametrize(("total", "first", "most"), [(5, 1, 8), (8, 1, 8), (9, 2, 8), (100, 1, 8), (101, 3, 9)])
def test_windows_predict_each_token_once_with_context(total: int, first: int, most: int) -> None:
    found = list(windows(total, first, most))
    predicted = [token for _, stop, begin in found for token in range(begin, stop)]
    assert predicted == list(range(first, total))
    assert all(stop - start <= most and start < begin for start, stop, begin in found)
    assert all(begin - start >= most // 2 for start, _, begin in found[1:])
