"""PreferenceTuning: the rows of a prepared split, and their batches.

Each row has two sequences of a prompt and an answer. Of a pair, they are the chosen and the rejected answer. With KTO,
the second one is the answer of another row, by which the loss estimates how far the model is from the reference.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune_trainer.train.batches import IndexArray
from finetune_trainer.train.data import Features, ListColumn, TrainingDataset, token_counts

Scores = NDArray[np.float32]


class PreferenceDataset(TrainingDataset):
    """Rows with ``sequences`` (two arrays of tokens), ``starts`` (where their answers begin), ``labels`` (1 for a pair
    and a desirable answer) and ``reference`` (the log-probabilities of the answers for the reference).
    """

    def __init__(self, table: pa.Table, max_length: int, seed: int) -> None:
        """
        Args:
            table: The prepared split.
            max_length: Maximum number of tokens of a sequence.
            seed: Draws the other answers of KTO.
        """
        self.paired = "chosen_ids" in table.column_names
        answers = ("chosen_ids", "rejected_ids") if self.paired else ("completion_ids", "completion_ids")
        self._prompts = ListColumn(table["prompt_ids"])
        self._answers = [ListColumn(table[name]) for name in answers]
        self._labels = np.ones(len(table), np.int64) if self.paired else table["label"].to_numpy().astype(np.int64)
        self._others = np.arange(len(table)) if self.paired else other_rows(table, seed)
        self._most = max_length
        prompts = token_counts(table, "prompt_ids")
        counts = [token_counts(table, name) for name in answers]
        self.counts: IndexArray = np.stack([counts[0], counts[1][self._others]], axis=1)
        """Tokens of both answers of each row, of shape (rows, 2)."""
        self.lengths = np.minimum(prompts[:, None] + self.counts, max_length).sum(axis=1)
        self.reference: Scores = np.zeros((len(table), 2), np.float32)
        """Log-probabilities of both answers for the reference, of shape (rows, 2)."""

    @property
    def labels(self) -> IndexArray:
        """1 for each pair and desirable answer, 0 for undesirable answers; of shape (rows,)."""
        return self._labels

    def row(self, index: int) -> Features:
        prompt = self._prompts[index]
        answers = [self._answers[0][index], self._answers[1][int(self._others[index])]]
        # Only the answer of another row can be too long for a prompt.
        prompts = [prompt[max(0, len(prompt) + len(answer) - self._most) :] for answer in answers]
        return {
            "sequences": [np.concatenate(parts) for parts in zip(prompts, answers, strict=True)],
            "starts": [len(part) for part in prompts],
            "reference": self.reference[index],
            "counts": self.counts[index],
            "labels": self._labels[index],
        }


class PreferenceCollator:
    """Pads to the longest sequence of a batch.

    Returns ``input_ids``, ``attention_mask`` and ``answers`` (whether a token belongs to the answer), each of shape
    (2 * batch, tokens), the first sequences of all rows before the second ones; ``labels`` of shape (batch,);
    ``reference`` and ``counts`` (tokens of each answer), of shape (batch, 2).
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        sequences = [row["sequences"][side] for side in (0, 1) for row in rows]
        starts = [row["starts"][side] for side in (0, 1) for row in rows]
        shape = (len(sequences), max(map(len, sequences)))
        tokens = torch.full(shape, self._pad)
        mask, answers = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for line, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            tokens[line, : len(sequence)] = torch.from_numpy(sequence)
            mask[line, : len(sequence)] = 1
            answers[line, start : len(sequence)] = True
        return {
            "input_ids": tokens,
            "attention_mask": mask,
            "answers": answers,
            "labels": torch.tensor([int(row["labels"]) for row in rows]),
            "reference": torch.from_numpy(np.stack([row["reference"] for row in rows])),
            "counts": torch.from_numpy(np.stack([row["counts"] for row in rows])),
        }


def other_rows(table: pa.Table, seed: int) -> IndexArray:
    """For each row another one, with another prompt wherever there are enough of them; each occurs once.

    Args:
        table: At least two rows, with the column ``prompt_ids``.
        seed: Draws the order of the prompts.
    """
    prompts = ListColumn(table["prompt_ids"])
    groups: dict[bytes, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(len(table)).tolist():
        groups.setdefault(prompts[row].tobytes(), []).append(row)
    order = np.array([row for group in groups.values() for row in group])
    # The rows of a prompt are neighbours, so a row that is at least as many places ahead has another one.
    shift = min(max(map(len, groups.values())), len(order) - 1)
    others = np.empty(len(order), np.int64)
    others[order] = np.roll(order, -shift)
    return others
