"""Summarization: learns to write the summary of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.evaluate.rouge import words
from finetune_trainer.pairs.forms import pair_forms
from finetune_trainer.pairs.rows import Pair, PairRows
from finetune_trainer.pairs.task import Titles
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import RowSchema
from finetune_trainer.prepare.sources import DataFile

_INSTRUCTION = "Summarize the text."
_PREFIX = "summarize: "
"""What T5 was pretrained with (Raffel et al. 2020, appendix D)."""


@dataclass(frozen=True)
class SummaryRows(PairRows):
    """Reads rows with a text and its summary."""

    def example(self, values: Values) -> Pair:
        pair = super().example(values)
        if not words(pair.target):
            raise BadRow(f"column '{self.needed[1]}' contains no word; write a summary or remove the row")
        return pair


class NoCheck:
    """Implements `finetune_trainer.pairs.task.PairCheck`: every row is checked by itself."""

    def see(self, batch: pa.RecordBatch) -> None:
        """Do nothing."""

    def notes(self) -> Sequence[str]:
        return ()


class Summarization:
    """Implements `finetune_trainer.pairs.task.PairTask`."""

    purpose = "summarising texts"
    titles = Titles("Text", "Summary")
    sample = (
        "The mill at the river closed in May. Forty people lost their jobs, most of whom had worked there for years."
    )

    def rows(self, spec: FineTuneJobSpec, files: Sequence[DataFile]) -> RowSchema:
        columns = spec.dataset.columns
        return SummaryRows((columns.name("text"), columns.name("summary")), ("text", "summary"))

    def instruction(self, spec: FineTuneJobSpec) -> str:
        return spec.task.instruction or _INSTRUCTION

    def prefix(self, spec: FineTuneJobSpec) -> str:
        return f"{spec.task.instruction} " if spec.task.instruction else _PREFIX

    def languages(self, spec: FineTuneJobSpec) -> None:
        return None

    def check(self) -> NoCheck:
        return NoCheck()


task = pair_forms(Summarization())
