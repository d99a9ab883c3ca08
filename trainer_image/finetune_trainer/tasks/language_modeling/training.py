"""LanguageModeling: rows of joined documents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.language_modeling.cutting import row_bounds
from finetune_trainer.train.batches import IndexArray
from finetune_trainer.train.data import Features, TrainingDataset, token_counts


class JoinedDocuments(TrainingDataset):
    """Rows with ``input_ids`` and ``labels``, each of shape (tokens,), cut from all documents of a split in a row.

    Labels are the tokens themselves, but for the first of the row, which nothing predicts, and those before a document,
    which the evaluation does not predict either.
    """

    def __init__(self, table: pa.Table, row_length: int, start_tokens: int) -> None:
        """
        Args:
            table: The documents of a prepared split.
            row_length: Maximum number of tokens of a row.
            start_tokens: Tokens before the text of each document.
        """
        # Views of the memory-mapped file, which all ranks share.
        self._chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["input_ids"].chunks]
        self._chunk_starts = np.cumsum([0, *map(len, self._chunks)])
        counts = token_counts(table)
        self._documents = np.cumsum(counts) - counts
        self._start_tokens = start_tokens
        self._bounds = row_bounds(counts, row_length)
        self.lengths = np.diff(self._bounds)

    def row(self, index: int) -> Features:
        first, last = (int(bound) for bound in self._bounds[index : index + 2])
        tokens = self._tokens(first, last)
        labels = tokens.copy()
        labels[0] = IGNORED_LABEL
        # A document whose start tokens reach into the row may begin before it.
        found = np.searchsorted(self._documents, (first - self._start_tokens + 1, last))
        for begin in self._documents[slice(*found)].tolist() if self._start_tokens else ():
            labels[max(0, begin - first) : max(0, begin - first + self._start_tokens)] = IGNORED_LABEL
        return {"input_ids": tokens, "labels": labels}

    def _tokens(self, first: int, last: int) -> IndexArray:
        """The tokens at the positions ``first`` to below ``last`` of all documents."""
        chunk = int(np.searchsorted(self._chunk_starts, first, side="right")) - 1
        parts = []
        while first < last:
            start = int(self._chunk_starts[chunk])
            part = self._chunks[chunk][first - start : last - start]
            parts.append(part)
            first += len(part)
            chunk += 1
        return np.concatenate(parts).astype(np.int64)
