"""Which examples go into which step, on which rank: a pure function of lengths, sizes, seed and epoch.

The global batches do not depend on the number of processes, so a job that is resumed with other hardware sees the same
examples in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MEGABATCH = 50
"""Global batches that are sorted by length together: texts of a batch fit each other, and the order stays random."""

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class BatchSizes:
    """How a global batch is divided."""

    per_step: int
    """Sequences of one optimizer step, over all processes."""
    processes: int
    per_device: int
    accumulation: int


def divide_batch(per_step: int, processes: int, most_per_device: int) -> BatchSizes:
    """Divide a global batch over processes and accumulation steps.

    The per-device size is the largest divisor of the process's share that is at most ``most_per_device``.

    Raises:
        ValueError: ``per_step`` is not a multiple of ``processes``.
    """
    share, rest = divmod(per_step, processes)
    if rest:
        raise ValueError(f"a batch of {per_step} cannot be shared by {processes} processes")
    per_device = max(size for size in range(1, min(share, most_per_device) + 1) if share % size == 0)
    return BatchSizes(per_step, processes, per_device, share // per_device)


def global_batches(lengths: IndexArray, batch_size: int, seed: int, epoch: int) -> IndexArray:
    """Indices of every step of one epoch.

    Args:
        lengths: Tokens of each example, shape (examples,).
        batch_size: Sequences of a step.
        seed: Seed of the job.
        epoch: Number of the epoch, from 0.

    Returns:
        Shape (steps, batch_size); each row is sorted by falling length. Every example occurs at least once; the last
        batch is filled up with examples from the start of the epoch. The first step of epoch 0 holds the longest
        example, so that a batch too large for the memory shows at once.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(lengths))
    steps = -(-len(order) // batch_size)
    order = np.resize(order, steps * batch_size)
    megabatch = _MEGABATCH * batch_size
    chunks = [order[start : start + megabatch] for start in range(0, len(order), megabatch)]
    batches = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
    batches = batches.reshape(steps, batch_size)
    shuffled = np.random.default_rng((seed, epoch, 1)).permutation(steps)
    if epoch == 0:
        longest = int(np.argmax(lengths[batches[shuffled]].max(axis=1)))
        shuffled[[0, longest]] = shuffled[[longest, 0]]
    return np.asarray(batches[shuffled], dtype=np.int64)


def rank_batches(batches: IndexArray, sizes: BatchSizes, rank: int) -> IndexArray:
    """The micro-batches of one rank, shape (steps * accumulation, per_device).

    Micro-batches that run at the same time on different ranks are neighbours in length, so no rank waits for another.
    """
    steps = len(batches)
    micro = batches.reshape(steps, sizes.accumulation, sizes.processes, sizes.per_device)
    return np.ascontiguousarray(micro[:, :, rank]).reshape(steps * sizes.accumulation, sizes.per_device)


class EpochBatches:
    """A batch sampler for ``torch.utils.data.DataLoader`` of one rank; call ``set_epoch`` before each epoch."""

    def __init__(self, lengths: IndexArray, sizes: BatchSizes, rank: int, seed: int) -> None:
        self._lengths = lengths
        self._sizes = sizes
        self._rank = rank
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._sizes.per_step) * self._sizes.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        batches = global_batches(self._lengths, self._sizes.per_step, self._seed, self._epoch)
        yield from rank_batches(batches, self._sizes, self._rank).tolist()
