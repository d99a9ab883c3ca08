"""Batches and packing: every example is used, and the global batches do not depend on the world size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.train.batches import (
    BatchSizes,
    EpochBatches,
    divide_batch,
    global_batches,
    rank_batches,
)
from finetune_trainer.train.packing import pack

lengths = st.lists(st.integers(1, 64), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@pytest.mark.parametrize(
    ("batch", "processes", "most", "per_device", "accumulation"),
    [(64, 4, 8, 8, 2), (64, 1, 8, 8, 8), (12, 2, 8, 6, 1), (26, 2, 8, 1, 13), (4, 4, 8, 1, 1), (30, 2, 8, 5, 3)],
)
def test_division_of_a_global_batch(batch: int, processes: int, most: int, per_device: int, accumulation: int) -> None:
    assert divide_batch(batch, processes, most) == BatchSizes(batch, processes, per_device, accumulation)


def test_a_batch_size_that_is_not_a_multiple_of_the_processes_is_rejected() -> None:
    with pytest.raises(ValueError, match="a batch size of 10 is not a multiple of 4 processes"):
        divide_batch(10, 4, 8)


@given(lengths, st.integers(1, 16), st.integers(0, 3))
def test_every_example_is_in_every_epoch(lengths: np.ndarray, batch: int, epoch: int) -> None:
    batches = global_batches(lengths, batch, seed=17, epoch=epoch)
    assert batches.shape == (-(-len(lengths) // batch), batch)
    assert set(batches.ravel().tolist()) == set(range(len(lengths)))


@given(lengths, st.sampled_from([(1, 8), (2, 4), (4, 2), (8, 1)]))
def test_steps_have_the_same_examples_for_any_number_of_processes(
    lengths: np.ndarray, division: tuple[int, int]
) -> None:
    processes, most = division
    sizes = divide_batch(8, processes, most)
    batches = global_batches(lengths, 8, seed=3, epoch=1)
    by_rank = [rank_batches(batches, sizes, rank).reshape(len(batches), -1).tolist() for rank in range(processes)]
    for step, expected in enumerate(batches.tolist()):
        assert sorted(index for rank in by_rank for index in rank[step]) == sorted(expected)


def test_batches_depend_on_seed_and_epoch_only() -> None:
    lengths = np.arange(1, 101)
    first = global_batches(lengths, 10, seed=1, epoch=0)
    assert (first == global_batches(lengths, 10, seed=1, epoch=0)).all()
    assert (first != global_batches(lengths, 10, seed=1, epoch=1)).any()
    assert (first != global_batches(lengths, 10, seed=2, epoch=0)).any()


def test_the_longest_example_is_in_the_first_step() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 500)
    lengths[321] = 99
    assert 321 in global_batches(lengths, 8, seed=0, epoch=0)[0]


def test_grouping_by_length_reduces_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 1, 5000).astype(np.int64) + 1
    batches = global_batches(lengths, 16, seed=0, epoch=0)
    padded = (lengths[batches].max(axis=1) * 16).sum()
    unsorted = lengths[: 16 * (len(lengths) // 16)].reshape(-1, 16).max(axis=1).sum() * 16
    assert lengths[batches].sum() / padded > 0.8
    assert lengths.sum() / unsorted < 0.5


def test_sampler_batches_depend_on_the_epoch() -> None:
    sampler = EpochBatches(np.arange(1, 41), divide_batch(8, 2, 2), rank=1, seed=0)
    first = list(sampler)
    assert len(first) == len(sampler) == 10
    sampler.set_epoch(1)
    assert list(sampler) != first


@given(lengths)
def test_packing_keeps_every_example_and_the_row_length(lengths: np.ndarray) -> None:
    rows = pack(lengths, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(lengths[row].sum() for row in rows) <= 64


def test_packing_fills_98_percent_of_the_rows() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, 2000)
    rows = pack(lengths, 512)
    assert lengths.sum() / (len(rows) * 512) > 0.98
