"""Access to the rows of prepared splits, for the datasets of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.train.batches import NO_ROW, EpochBatches, IndexArray

Features = dict[str, Any]
Collator = Callable[[list[Features]], dict[str, torch.Tensor]]


def token_counts(table: pa.Table, column: str = "input_ids") -> IndexArray:
    """Tokens of each row in ``column``, shape (rows,)."""
    # Without pyarrow.compute, which registers all of its functions on import, in every rank.
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in table[column].chunks]
    return np.concatenate([np.empty(0, dtype=np.int64), *counts])


class ListColumn:
    """Random access to a list column; reads only the requested rows."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def __getitem__(self, row: int) -> IndexArray:
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, values = self._chunks[chunk]
        local = row - int(self._starts[chunk])
        return np.asarray(values[offsets[local] : offsets[local + 1]], dtype=np.int64)


class TrainingDataset(Dataset[Features], ABC):
    """A dataset of training rows, such as packed conversations."""

    lengths: IndexArray
    """Tokens of each row, shape (rows,)."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Features:
        """The row at ``index``; for `NO_ROW`, the shortest row without labels, whose loss is 0."""
        if index != NO_ROW:
            return self.row(index)
        row = self.row(int(np.argmin(self.lengths)))
        return row | {"labels": np.full_like(row["labels"], IGNORED_LABEL)}

    @abstractmethod
    def row(self, index: int) -> Features:
        """The features of a row, among them ``labels``, an integer or an array."""


class EpochDataLoader(DataLoader[Features]):
    """A DataLoader whose batches depend on the epoch; Trainer calls ``set_epoch`` before each epoch."""

    def set_epoch(self, epoch: int) -> None:
        assert isinstance(self.batch_sampler, EpochBatches)
        self.batch_sampler.set_epoch(epoch)
