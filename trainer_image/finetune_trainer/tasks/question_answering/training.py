"""Dataset and collator of QuestionAnswering with an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.modelling.outputs import takes_token_types
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.question_answering.batches import Windows
from finetune_trainer.train.data import Features, TrainingDataset


class SpanDataset(TrainingDataset):
    """Windows with ``input_ids`` and ``token_type_ids`` (tokens,) and ``labels`` (2,), the positions of the first and
    the last token of the answer. Windows that cut an answer are left out.
    """

    def __init__(self, table: pa.Table) -> None:
        self._windows = Windows.of(table)
        self._labels = np.stack([self._windows.starts, self._windows.ends], axis=1)
        self._rows = np.flatnonzero(self._labels[:, 0] != IGNORED_LABEL)
        self.lengths = self._windows.tokens.lengths[self._rows]

    def row(self, index: int) -> Features:
        window = int(self._rows[index])
        return {
            "input_ids": self._windows.tokens[window].astype(np.int64),
            "token_type_ids": self._windows.types[window].astype(np.int64),
            "labels": self._labels[window].copy(),
        }


class SpanCollator:
    """Pads to the longest row: ``input_ids``, ``attention_mask`` and, for a model that takes them, ``token_type_ids``,
    each (batch, tokens); ``labels`` (batch, 2).
    """

    def __init__(self, pad_token_id: int, model: Any) -> None:
        self._pad = pad_token_id
        self._types = takes_token_types(model)

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        tokens = torch.full((len(rows), width), self._pad)
        mask, types = torch.zeros((2, len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            tokens[index, :length] = torch.from_numpy(row["input_ids"])
            types[index, :length] = torch.from_numpy(row["token_type_ids"])
            mask[index, :length] = 1
        batch = {
            "input_ids": tokens,
            "attention_mask": mask,
            "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
        }
        return batch | ({"token_type_ids": types} if self._types else {})
