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

NO_ROW = -1
"""Index of a free place in the last batch of an epoch."""

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
        Indices of shape (steps, batch_size), each row sorted by descending length. Every example occurs exactly once;
        the free places of the last batch contain `NO_ROW`. The first step of epoch 0 contains the longest example, so
        that an out-of-memory error occurs early.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(lengths))
    megabatch = _MEGABATCH * batch_size
    chunks = [order[start : start + megabatch] for start in range(0, len(order), megabatch)]
    full, rest = divmod(len(order), batch_size)
    batches = np.full((full + (rest > 0), batch_size), NO_ROW, dtype=np.int64)
    batches.ravel()[: len(order)] = np.concatenate([_longest_first(chunk, lengths) for chunk in chunks])
    batches[:full] = batches[np.random.default_rng((seed, epoch, 1)).permutation(full)]
    if epoch == 0:
        longest = int(np.argmax(lengths[batches[:, 0]]))
        if longest < full:
            batches[[0, longest]] = batches[[longest, 0]]
        elif full:
            batches[[0, longest], 0] = batches[[longest, 0], 0]
            batches[longest, :rest] = _longest_first(batches[longest, :rest], lengths)
    return batches


def tokens_of_batches(lengths: IndexArray, batches: IndexArray) -> IndexArray:
    """Tokens in each batch of `global_batches`, of shape (steps,)."""
    return np.asarray(np.where(batches == NO_ROW, 0, lengths[batches]).sum(axis=1))


def _longest_first(examples: IndexArray, lengths: IndexArray) -> IndexArray:
    return examples[np.argsort(-lengths[examples], kind="stable")]


def rank_batches(batches: IndexArray, sizes: BatchSizes, rank: int) -> list[list[int]]:
    """The micro-batches of one rank, steps * accumulation lists of at most per_device indices.

    Micro-batches that run concurrently on different ranks have similar lengths, so that ranks do not wait for each
    other. A micro-batch without examples is ``[NO_ROW]``, because all ranks take part in every collective.

    Args:
        batches: Result of `global_batches`.
        sizes: Division of the global batch.
        rank: Global rank of the process.
    """
    micro = batches.reshape(len(batches), sizes.accumulation, sizes.processes, sizes.per_device)[:, :, rank]
    rows = micro.reshape(-1, sizes.per_device).tolist()
    return [[index for index in row if index != NO_ROW] or [NO_ROW] for row in rows]


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
        yield from rank_batches(batches, self._sizes, self._rank)
