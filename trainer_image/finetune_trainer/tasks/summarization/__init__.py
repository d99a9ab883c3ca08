"""Summarization: learns to write the summary of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.evaluate.rouge import words
from finetune_trainer.pairs.forms import pair_forms
from finetune_trainer.pairs.rows import Pair, PairRows
from finetune_trainer.pairs.task import Titles
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.tasks.base import Recognised, known_name

_INSTRUCTION = "Summarize the text."
_PREFIX = "summarize: "
"""What T5 was pretrained with (Raffel et al. 2020, appendix D)."""

_TEXTS = ("text", "document", "article", "dialogue", "report", "content", "body")
_SUMMARIES = ("summary", "highlights", "abstract")


@dataclass(frozen=True)
class SummaryRows(PairRows):
    """Reads rows with a text and its summary."""

    def example(self, values: Values) -> Pair:
        pair = super().example(values)
        if not words(pair.target):
            raise BadRow(f"column '{self.needed[1]}' contains no word; write a summary or remove the row")
        return pair


class Summarization:
    """Implements `finetune_trainer.pairs.task.PairTask`."""

    titles = Titles("Text", "Summary")
    fields = ("text", "summary")
    sample = (
        "The mill at the river closed in May. Forty people lost their jobs, most of whom had worked there for years."
    )

    def purpose(self, spec: FineTuneJobSpec) -> str:
        return "summarising texts"

    def rows(self, spec: FineTuneJobSpec, names: Sequence[str]) -> SummaryRows:
        text, summary = self.fields
        return SummaryRows((spec.dataset.columns.name(text), spec.dataset.columns.name(summary)), self.fields)

    def instruction(self, spec: FineTuneJobSpec) -> str:
        return spec.task.instruction or _INSTRUCTION

    def prefix(self, spec: FineTuneJobSpec) -> str:
        return f"{spec.task.instruction} " if spec.task.instruction else _PREFIX

    def languages(self, spec: FineTuneJobSpec) -> None:
        return None


def recognise(names: Sequence[str], _: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    text, summary = known_name(_TEXTS, names), known_name(_SUMMARIES, names)
    if text is None or summary is None:
        return None
    return Recognised({"text": text, "summary": summary}, "", "", certain=summary.lower() == "summary")


task = pair_forms(Summarization(), recognise)
