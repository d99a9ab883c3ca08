"""The interface of the tokenisers of text-to-text tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.special_tokens import AnswerTokens


class PairEncoder(Protocol):
    """Tokenises sources and targets for the models of one family."""

    answers: AnswerTokens
    """Tokens of the targets so far."""
    prefix: str
    """What the model sees before each source; empty if it sees the source as it is, or in a chat template."""
    before: str
    """What is asked before each source: the prefix, or the instruction for a decoder; may be empty."""

    @property
    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns that ``encode`` returns."""

    def fit(self, sources: Sequence[str]) -> list[bool]:
        """Whether there is room for each source, beside the longest answer that is generated."""

    def shown(self, sources: Sequence[str]) -> list[str]:
        """What the model reads of each source; a model with an encoder may read less."""

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        """Tokenise sources and their targets; a source for which there is no room is truncated."""
