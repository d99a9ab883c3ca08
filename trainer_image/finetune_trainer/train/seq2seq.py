"""Dataset, collator and loss of models with an encoder and a decoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.modelling.shift import Shift
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts


class Seq2SeqDataset(TrainingDataset):
    """Rows with ``input_ids``, the tokens of the source, and ``labels``, those of the target."""

    def __init__(self, table: pa.Table) -> None:
        self._sources, self._targets = ListColumn(table["input_ids"]), ListColumn(table["labels"])
        self.lengths = token_counts(table, "input_ids") + token_counts(table, "labels")

    def row(self, index: int) -> Features:
        return {"input_ids": self._sources[index], "labels": self._targets[index]}


class Seq2SeqCollator:
    """Pads sources and targets to the longest of the batch.

    The inputs of the decoder come from the labels by the model's own shift, so that the model need not see the labels.
    """

    def __init__(self, pad_token_id: int, shift: Shift) -> None:
        self._pad = pad_token_id
        self._shift = shift

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        sources, mask = _padded([row["input_ids"] for row in rows], self._pad)
        labels, _ = _padded([row["labels"] for row in rows], IGNORED_LABEL)
        return {
            "input_ids": sources,
            "attention_mask": mask,
            "decoder_input_ids": self._shift(labels),
            "labels": labels,
        }


def loss(logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The cross entropy of all labels that are not ignored, in nats, / ``count``."""
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / count


def _padded(rows: list[np.ndarray], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of the real ones, both of shape (rows, tokens)."""
    tokens = torch.full((len(rows), max(map(len, rows))), fill)
    mask = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.from_numpy(row)
        mask[index, : len(row)] = 1
    return tokens, mask
