"""Rows with a source text and a target text."""

from __future__ import annotations

import json
from dataclasses import dataclass

from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import text_of


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


@dataclass(frozen=True)
class PairRows:
    """Reads rows with a source column and a target column."""

    needed: tuple[str, str]
    """The names of the two columns."""
    fields: tuple[str, str]
    """The fields of dataset.columns that set them."""
    optional: tuple[str, ...] = ()

    def example(self, values: Values) -> Pair:
        source, target = (text_of(values, *names) for names in zip(self.needed, self.fields, strict=True))
        return Pair(source, target)
