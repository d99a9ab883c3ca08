"""What distinguishes one text-to-text task from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.pairs.rows import PairSchema


@dataclass(frozen=True)
class Titles:
    """Headings of the report."""

    source: str
    target: str


class PairTask(Protocol):
    """A text-to-text task."""

    titles: Titles
    sample: str
    """A source for the program in the model card."""

    fields: tuple[str, str]
    """The fields of dataset.columns with source and target."""

    def purpose(self, spec: FineTuneJobSpec) -> str:
        """For the model card, such as ``summarising texts``."""

    def rows(self, spec: FineTuneJobSpec, names: Sequence[str]) -> PairSchema:
        """Reads rows with columns ``names`` as pairs.

        Raises:
            StageFailure: BadConfiguration when the spec does not say how.
        """

    def instruction(self, spec: FineTuneJobSpec) -> str:
        """What a decoder is asked to do, before the source."""

    def prefix(self, spec: FineTuneJobSpec) -> str:
        """What a model of T5's family sees before the source."""

    def languages(self, spec: FineTuneJobSpec) -> tuple[str | None, str | None] | None:
        """The languages of source and target in the spec; None for a task within one language."""
