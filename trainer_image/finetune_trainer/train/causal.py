"""Dataset and collator of causal language models."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts
from finetune_trainer.train.packing import pack


class CausalDataset(TrainingDataset):
    """Rows with ``input_ids`` and ``labels``, each of shape (tokens,).

    With packing, a row contains several conversations, and also has ``position_ids``, which restart at 0 for each.
    """

    def __init__(self, table: pa.Table, row_length: int | None) -> None:
        """``row_length``: maximum number of tokens of a packed row; None disables packing."""
        self._tokens = ListColumn(table["input_ids"])
        self._labels = ListColumn(table["labels"])
        self._packed = row_length is not None
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
        features = {"input_ids": np.concatenate(tokens), "labels": np.concatenate(labels)}
        return features | {"position_ids": np.concatenate(positions)} if self._packed else features


class CausalCollator:
    """Pads to the longest row of the batch: ``input_ids``, ``labels`` and one more tensor, each (batch, tokens).

    Packed rows have ``position_ids`` and no attention mask: transformers separates conversations where position_ids
    restart at 0, and the padding at the end of a row is a separate conversation without labels. Other rows have an
    ``attention_mask``, which every model class accepts.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        packed = "position_ids" in rows[0]
        tokens = torch.full((len(rows), width), self._pad)
        labels = torch.full((len(rows), width), IGNORED_LABEL)
        third = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            tokens[index, :length] = torch.from_numpy(row["input_ids"])
            labels[index, :length] = torch.from_numpy(row["labels"])
            if packed:
                third[index, :length] = torch.from_numpy(row["position_ids"])
                third[index, length:] = torch.arange(width - length)
            else:
                third[index, :length] = 1
        return {"input_ids": tokens, "labels": labels, "position_ids" if packed else "attention_mask": third}
