"""Token rows in batches: sorted by length, bounded in tokens, halved when the device's memory does not hold one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.evaluate.metrics import Ints


class TokenRows:
    """Rows of token ids, kept as one array and its offsets; a row is a view of it."""

    def __init__(self, values: NDArray[np.int32], offsets: Ints) -> None:
        self.values = values
        self.offsets = offsets
        self.lengths: Ints = np.diff(offsets)

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> TokenRows:
        """The rows of a list<int32> column."""
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
        values = np.concatenate(chunks) if chunks else np.empty(0, np.int32)
        ends = np.cumsum(np.concatenate(lengths)) if lengths else np.empty(0, np.int64)
        return cls(values, np.concatenate([[0], ends]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: Ints) -> TokenRows:
        """The rows at ``indices``, copied."""
        rows = [self[int(index)] for index in indices]
        ends = np.cumsum(self.lengths[indices])
        return TokenRows(np.concatenate(rows), np.concatenate([[0], ends]))

    def heads(self, lengths: Ints) -> TokenRows:
        """The first ``lengths[i]`` tokens of each row, copied."""
        rows = [self[index][:length] for index, length in enumerate(lengths)]
        return TokenRows(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may become."""

    examples: int
    tokens: int
    """Rows × the longest row, padding included."""


def length_sorted(lengths: Ints, limits: BatchLimits) -> list[Ints]:
    """Indices in batches of like length, the longest first: what does not fit the memory shows at once.

    An example that is longer than the limit alone has a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, min(limits.examples, limits.tokens // longest))
        batches.append(order[start : start + size])
        start += size
    return batches


def padded(rows: TokenRows, batch: Ints, fill: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a batch, filled up with ``fill``, and the mask of what is no filling: int64 (batch, longest)."""
    longest = int(rows.lengths[batch].max())
    tokens = np.full((len(batch), longest), fill, dtype=np.int64)
    mask = np.zeros((len(batch), longest), dtype=np.int64)
    for line, index in enumerate(batch):
        row = rows[int(index)]
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        tokens[line, place] = row
        mask[line, place] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def each_batch(batches: Iterable[Ints], work: Callable[[Ints], None]) -> None:
    """Do ``work`` on every batch; on one that does not fit the GPU's memory, on its halves.

    Raises:
        StageFailure: OutOfMemory, when a single example does not fit.
    """
    waiting = list(batches)[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise StageFailure(
                    Reason.OUT_OF_MEMORY,
                    "One example of the test split does not fit the GPU's memory beside the model; lower "
                    "training.maxSequenceLength or evaluation.generation.maxNewTokens, or use a larger GPU",
                ) from None
            middle = len(batch) // 2
            waiting += [batch[middle:], batch[:middle]]
            torch.cuda.empty_cache()
