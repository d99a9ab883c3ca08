"""Batches of token sequences: sorted by length, limited in tokens, and halved after an out-of-memory error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.evaluate.metrics import Ints


class TokenRows:
    """Rows of token ids, stored as one array ``values`` and its ``offsets`` of shape (rows + 1,); a row is a view."""

    def __init__(self, values: NDArray[np.int32], offsets: Ints) -> None:
        self.values = values
        self.offsets = offsets
        self.lengths: Ints = np.diff(offsets)

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> TokenRows:
        """The rows of an Arrow column of type list<int32>."""
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
    """Maximum size of a batch."""

    examples: int
    tokens: int
    """Tokens including padding: number of rows × length of the longest row."""

    def unless_alone(self, batching: bool) -> BatchLimits:
        """These limits, or one example at a time for a model whose outputs depend on padding."""
        return self if batching else replace(self, examples=1)


def length_sorted(lengths: Ints, limits: BatchLimits) -> list[Ints]:
    """Group examples of similar length into batches, longest first, so that out-of-memory errors occur early.

    An example that exceeds the token limit alone gets its own batch.

    Args:
        lengths: Tokens of each example, of shape (examples,).
        limits: Maximum size of a batch.

    Returns:
        The indices of the examples of each batch.
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
    """Pad the rows of a batch.

    Args:
        rows: All rows.
        batch: Indices of the rows of the batch, of shape (batch,).
        fill: Token id of the padding.
        left: Pad on the left instead of the right.

    Returns:
        Token ids and attention mask, both int64 of shape (batch, longest row).
    """
    longest = int(rows.lengths[batch].max())
    tokens = np.full((len(batch), longest), fill, dtype=np.int64)
    mask = np.zeros((len(batch), longest), dtype=np.int64)
    for line, index in enumerate(batch):
        row = rows[int(index)]
        positions = slice(longest - len(row), longest) if left else slice(0, len(row))
        tokens[line, positions] = row
        mask[line, positions] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def each_batch(batches: Iterable[Ints], work: Callable[[Ints], None]) -> None:
    """Call ``work`` on every batch; after an out-of-memory error of the GPU, on its halves.

    Raises:
        StageFailure: OutOfMemory when a single example does not fit.
    """
    pending = list(batches)[::-1]
    while pending:
        batch = pending.pop()
        try:
            work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise StageFailure(
                    Reason.OUT_OF_MEMORY,
                    "The model and one example do not fit into the GPU's memory; lower "
                    "training.maxSequenceLength or evaluation.generation.maxNewTokens, or use a larger GPU",
                ) from None
            middle = len(batch) // 2
            pending += [batch[middle:], batch[:middle]]
            torch.cuda.empty_cache()
