"""Dataset and collator of TextClassification."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune_trainer.prepared import DataReport
from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts

Targets = int | NDArray[np.float32]
"""The index of the label; with task.multiLabel 1 for each label of the row and 0 for the others, (labels,)."""


class ClassificationDataset(TrainingDataset):
    """Rows with ``input_ids`` (tokens,) and ``labels``, which are `Targets`."""

    def __init__(self, table: pa.Table, data: DataReport) -> None:
        self._tokens = ListColumn(table["input_ids"])
        self._label_of = _label_lists(table, len(data.labels)) if data.multi_label else _labels(table)
        self.lengths = token_counts(table)

    def row(self, index: int) -> Features:
        return {"input_ids": self._tokens[index], "labels": self._label_of(index)}


def _labels(table: pa.Table) -> Callable[[int], Targets]:
    indices = table["label"].to_numpy().astype(np.int64)
    return lambda index: indices[index]


def _label_lists(table: pa.Table, labels: int) -> Callable[[int], Targets]:
    lists = ListColumn(table["labels"])

    def targets(index: int) -> Targets:
        row = np.zeros(labels, np.float32)
        row[lists[index]] = 1
        return row

    return targets


class ClassificationCollator:
    """Pads to the longest row of the batch: ``input_ids``, ``attention_mask`` (batch, tokens), and ``labels`` (batch,),
    or (batch, labels) with task.multiLabel.
    """

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
            "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
        }
