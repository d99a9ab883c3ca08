"""Assignment of examples to steps and ranks: a pure function of lengths, batch sizes, seed and epoch.

The global batches do not depend on the world size, so that a job that resumes with a different number of GPUs sees the
same examples in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MEGABATCH = 50
"""Global batches that are sorted by length together, for little padding in a mostly random order."""

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class BatchSizes:
    """Division of a global batch over processes and gradient accumulation steps."""

    per_step: int
    """Sequences per optimizer step, summed over all processes."""
    processes: int
    per_device: int
    accumulation: int


def divide_batch(per_step: int, processes: int, most_per_device: int) -> BatchSizes:
    """Divide a global batch over processes and gradient accumulation steps.

    The per-device batch size is the largest divisor of a process's share that does not exceed ``most_per_device``.

    Args:
        per_step: Sequences per optimizer step, summed over all processes.
        processes: World size.
        most_per_device: Maximum per-device batch size.

    Raises:
        ValueError: ``per_step`` is not a multiple of ``processes``.
    """
    share, rest = divmod(per_step, processes)
    if rest:
        raise ValueError(f"a batch size of {per_step} is not a multiple of {processes} processes")
    per_device = max(size for size in range(1, min(share, most_per_device) + 1) if share % size == 0)
    return BatchSizes(per_step, processes, per_device, share // per_device)


def global_batches(lengths: IndexArray, batch_size: int, seed: int, epoch: int) -> IndexArray:
    """Indices of the examples of every step of one epoch.

    Args:
        lengths: Tokens of each example, of shape (examples,).
        batch_size: Sequences per optimizer step.
        seed: Seed of the job.
        epoch: Number of the epoch, from 0.

    Returns:
        Indices of shape (steps, batch_size), each row sorted by descending length. Every example occurs at least once;
        the last batch is filled with examples from the start of the epoch. The first step of epoch 0 contains the
        longest example, so that an out-of-memory error occurs early.
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
    """The micro-batches of one rank, of shape (steps * accumulation, per_device).

    Micro-batches that run concurrently on different ranks have similar lengths, so that ranks do not wait for each
    other.

    Args:
        batches: Result of `global_batches`.
        sizes: Division of the global batch.
        rank: Global rank of the process.
    """
    steps = len(batches)
    micro = batches.reshape(steps, sizes.accumulation, sizes.processes, sizes.per_device)
    return np.ascontiguousarray(micro[:, :, rank]).reshape(steps * sizes.accumulation, sizes.per_device)


class EpochBatches:
    """Batch sampler of one rank for ``torch.utils.data.DataLoader``; call ``set_epoch`` before each epoch."""

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
