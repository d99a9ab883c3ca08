"""Translation: learns to write a text in another language."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.pairs.forms import pair_forms
from finetune_trainer.pairs.languages import display_name
from finetune_trainer.pairs.rows import PairSchema
from finetune_trainer.pairs.task import Titles
from finetune_trainer.tasks.translation.recognition import recognise
from finetune_trainer.tasks.translation.rows import schema_for


class Translation:
    """Implements `finetune_trainer.pairs.task.PairTask`."""

    titles = Titles("Source", "Translation")
    fields = ("source", "target")
    sample = "Good morning."

    def purpose(self, spec: FineTuneJobSpec) -> str:
        return f"translation{_direction(spec)}"

    def rows(self, spec: FineTuneJobSpec, names: Sequence[str]) -> PairSchema:
        return schema_for(spec, names, self.fields)

    def instruction(self, spec: FineTuneJobSpec) -> str:
        if spec.task.instruction:
            return spec.task.instruction
        return f"Translate the text{_direction(spec)}."

    def prefix(self, spec: FineTuneJobSpec) -> str:
        """What T5 was pretrained with (Raffel et al. 2020, appendix D)."""
        if spec.task.instruction:
            return f"{spec.task.instruction} "
        source, target = self.languages(spec)
        origin = f" {display_name(source)}" if source else ""
        return f"translate{origin} to {display_name(target or '')}: "

    def languages(self, spec: FineTuneJobSpec) -> tuple[str | None, str | None]:
        return spec.task.source_language, spec.task.target_language


def _direction(spec: FineTuneJobSpec) -> str:
    """The languages in words, such as `` from English to German``."""
    origin = f" from {display_name(spec.task.source_language)}" if spec.task.source_language else ""
    return f"{origin} to {display_name(spec.task.target_language or '')}"


task = pair_forms(Translation(), recognise)
