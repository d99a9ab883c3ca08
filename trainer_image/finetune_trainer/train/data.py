"""Datasets and collators over the prepared, memory-mapped splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.train.batches import EpochBatches, IndexArray
from finetune_trainer.train.packing import pack

Features = dict[str, Any]
Collator = Callable[[list[Features]], dict[str, torch.Tensor]]


def token_counts(table: pa.Table) -> IndexArray:
    """Tokens of each row, shape (rows,)."""
    # Not by `pyarrow.compute`, which makes all of its functions as it is imported, in every rank.
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in table["input_ids"].chunks]
    return np.concatenate([np.empty(0, dtype=np.int64), *counts])


class _ListColumn:
    """Random access to a column of lists without decoding the rest."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def __getitem__(self, row: int) -> IndexArray:
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, values = self._chunks[chunk]
        local = row - int(self._starts[chunk])
        return np.asarray(values[offsets[local] : offsets[local + 1]], dtype=np.int64)


class ClassificationDataset(Dataset[Features]):
    """Rows with ``input_ids`` (tokens,) and ``label``."""

    def __init__(self, table: pa.Table) -> None:
        self._tokens = _ListColumn(table["input_ids"])
        self._labels = table["label"].to_numpy()
        self.lengths = token_counts(table)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> Features:
        return {"input_ids": self._tokens[row], "label": int(self._labels[row])}


class CausalDataset(Dataset[Features]):
    """Rows with ``input_ids``, ``labels`` and ``position_ids``, each (tokens,); with packing a row holds several
    conversations, told apart by positions that start anew at 0.
    """

    def __init__(self, table: pa.Table, row_length: int | None) -> None:
        """``row_length``: tokens of a packed row; None leaves each conversation a row of its own."""
        self._tokens = _ListColumn(table["input_ids"])
        self._labels = _ListColumn(table["labels"])
        counts = token_counts(table)
        self._rows = [[row] for row in range(len(table))] if row_length is None else pack(counts, row_length)
        self.lengths = np.asarray([int(counts[row].sum()) for row in self._rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Features:
        tokens, labels, positions = [], [], []
        for example in self._rows[row]:
            ids, targets = self._tokens[example], self._labels[example].copy()
            targets[0] = IGNORED_LABEL  # No conversation is to be guessed from the one before it.
            tokens.append(ids)
            labels.append(targets)
            positions.append(np.arange(len(ids)))
        return {
            "input_ids": np.concatenate(tokens),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate(positions),
        }


class ClassificationCollator:
    """Pads to the longest of the batch: ``input_ids``, ``attention_mask`` (batch, tokens) and ``labels`` (batch,)."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        tokens = torch.full((len(rows), width), self._pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            tokens[index, :length] = torch.from_numpy(row["input_ids"])
            mask[index, :length] = 1
        return {
            "input_ids": tokens,
            "attention_mask": mask,
            "labels": torch.tensor([row["label"] for row in rows]),
        }


class CausalCollator:
    """Pads to the longest row of the batch: ``input_ids``, ``labels``, ``position_ids``, each (batch, tokens).

    There is no attention mask: transformers keeps conversations apart by positions that start anew, and the padding
    at a row's end is one more conversation that nobody looks at.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        tokens = torch.full((len(rows), width), self._pad)
        labels = torch.full((len(rows), width), IGNORED_LABEL)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            tokens[index, :length] = torch.from_numpy(row["input_ids"])
            labels[index, :length] = torch.from_numpy(row["labels"])
            positions[index, :length] = torch.from_numpy(row["position_ids"])
            positions[index, length:] = torch.arange(width - length)
        return {"input_ids": tokens, "labels": labels, "position_ids": positions}


class EpochDataLoader(DataLoader[Features]):
    """A DataLoader whose batches depend on the epoch; ``Trainer`` calls ``set_epoch`` before each."""

    def set_epoch(self, epoch: int) -> None:
        assert isinstance(self.batch_sampler, EpochBatches)
        self.batch_sampler.set_epoch(epoch)
