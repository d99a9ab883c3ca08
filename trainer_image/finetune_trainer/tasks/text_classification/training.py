"""Dataset and collator of TextClassification."""

from __future__ import annotations

import pyarrow as pa
import torch

from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts


class ClassificationDataset(TrainingDataset):
    """Rows with ``input_ids`` (tokens,) and ``labels``, the index of the label."""

    def __init__(self, table: pa.Table) -> None:
        self._tokens = ListColumn(table["input_ids"])
        self._labels = table["label"].to_numpy()
        self.lengths = token_counts(table)

    def row(self, index: int) -> Features:
        return {"input_ids": self._tokens[index], "labels": self._labels[index]}


class ClassificationCollator:
    """Pads to the longest row of the batch: ``input_ids``, ``attention_mask`` (batch, tokens), ``labels`` (batch,)."""

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
            "labels": torch.tensor([int(row["labels"]) for row in rows]),
        }
