"""Dataset and collator of causal language models."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts
from finetune_trainer.train.packing import pack


class CausalDataset(TrainingDataset):
    """Rows with ``input_ids``, ``labels`` and ``position_ids``, each of shape (tokens,).

    With packing, a row contains several conversations; position_ids restart at 0 for each of them.
    """

    def __init__(self, table: pa.Table, row_length: int | None) -> None:
        """``row_length``: maximum number of tokens of a packed row; None disables packing."""
        self._tokens = ListColumn(table["input_ids"])
        self._labels = ListColumn(table["labels"])
        counts = token_counts(table)
        self._rows = [[row] for row in range(len(table))] if row_length is None else pack(counts, row_length)
        self.lengths = np.asarray([int(counts[row].sum()) for row in self._rows], dtype=np.int64)

    def row(self, index: int) -> Features:
        tokens, labels, positions = [], [], []
        for example in self._rows[index]:
            ids, targets = self._tokens[example], self._labels[example].copy()
            targets[0] = IGNORED_LABEL  # The previous conversation in the row must not predict this token.
            tokens.append(ids)
            labels.append(targets)
            positions.append(np.arange(len(ids)))
        return {
            "input_ids": np.concatenate(tokens),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate(positions),
        }


class CausalCollator:
    """Pads to the longest row of the batch: ``input_ids``, ``labels`` and ``position_ids``, each (batch, tokens).

    There is no attention mask: transformers separates conversations where position_ids restart at 0, and the padding
    at the end of a row is a separate conversation without labels.
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
