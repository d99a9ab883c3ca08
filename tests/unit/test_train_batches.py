"""Batches and packing: every example is used, and the global batches do not depend on the world size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.train.batches import (
    NO_ROW,
    BatchSizes,
    EpochBatches,
    divide_batch,
    global_batches,
    rank_batches,
    tokens_of_batches,
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
def test_every_example_is_in_every_epoch_exactly_once(lengths: np.ndarray, batch: int, epoch: int) -> None:
    batches = global_batches(lengths, batch, seed=17, epoch=epoch)
    assert batches.shape == (-(-len(lengths) // batch), batch)
    assert sorted(batches[batches != NO_ROW].tolist()) == list(range(len(lengths)))
    assert (batches[:-1] != NO_ROW).all()
    assert tokens_of_batches(lengths, batches).sum() == lengths.sum()
    for step in batches:
        rows = step[step != NO_ROW]
        assert (np.diff(lengths[rows]) <= 0).all()


@given(lengths, st.integers(1, 16))
def test_the_first_step_of_the_first_epoch_has_the_longest_example(lengths: np.ndarray, batch: int) -> None:
    assert lengths[global_batches(lengths, batch, seed=17, epoch=0)[0, 0]] == lengths.max()


def test_a_rank_without_examples_in_the_last_step_gets_an_empty_row() -> None:
    batches = global_batches(np.arange(1, 10), 8, seed=0, epoch=0)
    first, second = (rank_batches(batches, divide_batch(8, 2, 2), rank) for rank in range(2))
    assert [len(micro) for micro in first] == [2, 2, 1, 1]
    assert first[3:] == [[NO_ROW]]
    assert second[2:] == [[NO_ROW], [NO_ROW]]


@given(lengths, st.sampled_from([(1, 8), (2, 4), (4, 2), (8, 1)]))
def test_steps_have_the_same_examples_for_any_number_of_processes(
    lengths: np.ndarray, division: tuple[int, int]
) -> None:
    processes, most = division
    sizes = divide_batch(8, processes, most)
    batches = global_batches(lengths, 8, seed=3, epoch=1)
    by_rank = [rank_batches(batches, sizes, rank) for rank in range(processes)]
    assert {len(micro) for micro in by_rank} == {len(batches) * sizes.accumulation}
    for step, expected in enumerate(batches):
        micro = slice(step * sizes.accumulation, (step + 1) * sizes.accumulation)
        rows = [index for rank in by_rank for batch in rank[micro] for index in batch if index != NO_ROW]
        assert sorted(rows) == sorted(expected[expected != NO_ROW].tolist())


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
