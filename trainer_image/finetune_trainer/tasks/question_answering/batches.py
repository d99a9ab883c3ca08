"""The windows of the rows of a prepared split, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import TokenRows


@dataclass(frozen=True)
class Windows:
    """All windows of a split, in the order of its questions; arrays have the shape (windows,)."""

    tokens: TokenRows
    types: TokenRows
    """Token type ids."""
    questions: Ints
    """Index of the question of each window."""
    nulls: Ints
    """Position whose score is that of no answer."""
    starts: Ints
    """Position of the first token of the answer, or the label of a window without a whole one."""
    ends: Ints
    """Position of the last token of the answer, likewise."""
    context_starts: Ints
    """Position of the first token of the context."""
    context_lengths: Ints
    """Tokens of the context."""
    context_firsts: Ints
    """Index of the first token, in the tokens of the whole context."""

    @classmethod
    def of(cls, table: pa.Table) -> Windows:
        counts = TokenRows.of_column(table["window_lengths"]).lengths
        lengths = _flat(table, "window_lengths")
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        return cls(
            tokens=TokenRows(TokenRows.of_column(table["input_ids"]).values, bounds),
            types=TokenRows(TokenRows.of_column(table["token_type_ids"]).values, bounds),
            questions=np.repeat(np.arange(len(table)), counts),
            nulls=_flat(table, "null_positions"),
            starts=_flat(table, "starts"),
            ends=_flat(table, "ends"),
            context_starts=_flat(table, "context_starts"),
            context_lengths=_flat(table, "context_lengths"),
            context_firsts=_flat(table, "context_firsts"),
        )

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer that is learned; 0 if there is none."""
        learned = (self.starts >= 0) & (self.starts != self.nulls)
        return int((self.ends - self.starts + 1)[learned].max(initial=0))


def _flat(table: pa.Table, name: str) -> Ints:
    return TokenRows.of_column(table[name]).values.astype(np.int64)
