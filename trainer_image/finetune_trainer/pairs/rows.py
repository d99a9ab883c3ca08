"""Rows with a source text and a target text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import UNANSWERED, Example, OpenSchema, RowSchema, text_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and its target."""

    source: str
    target: str

    @property
    def characters(self) -> int:
        return len(self.source) + len(self.target)

    @property
    def content(self) -> str:
        return json.dumps([self.source, self.target], ensure_ascii=False)

    @property
    def answer(self) -> str:
        """Empty, because two targets of one source do not contradict each other."""
        return ""

    @property
    def group(self) -> str:
        """All targets of one source are in the same split."""
        return self.source


class PairSchema(RowSchema, Protocol):
    """Reads rows as pairs."""

    def source(self, values: Values) -> str:
        """The source text of a row, which may lack the target.

        Raises:
            BadRow: There is none.
        """


@dataclass(frozen=True)
class PairRows:
    """Reads rows with a source column and a target column."""

    needed: tuple[str, str]
    """The names of the two columns."""
    fields: tuple[str, str]
    """The fields of dataset.columns that set them."""
    optional: tuple[str, ...] = ()

    def example(self, values: Values) -> Pair:
        return Pair(self.source(values), text_of(values, self.needed[1], self.fields[1]))

    def source(self, values: Values) -> str:
        return text_of(values, self.needed[0], self.fields[0])


@dataclass(frozen=True)
class OpenPairs(OpenSchema[PairSchema]):
    """Reads rows whose target does not count, because a teacher writes it; they may lack it."""

    def example(self, values: Values) -> Example:
        try:
            return self.schema.example(values)
        except BadRow:
            return Pair(self.schema.source(values), UNANSWERED)
