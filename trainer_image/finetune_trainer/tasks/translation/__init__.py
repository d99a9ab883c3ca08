"""Translation: learns to write a text in another language."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.pairs.forms import pair_forms
from finetune_trainer.pairs.languages import display_name
from finetune_trainer.pairs.task import Titles
from finetune_trainer.prepare.rows import RowSchema
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.tasks.translation.check import UntranslatedRows
from finetune_trainer.tasks.translation.rows import schema_for


class Translation:
    """Implements `finetune_trainer.pairs.task.PairTask`."""

    purpose = "translation"
    titles = Titles("Source", "Translation")
    sample = "Good morning."

    def rows(self, spec: FineTuneJobSpec, files: Sequence[DataFile]) -> RowSchema:
        return schema_for(spec, files)

    def instruction(self, spec: FineTuneJobSpec) -> str:
        if spec.task.instruction:
            return spec.task.instruction
        source, target = self.languages(spec)
        origin = f" from {display_name(source)}" if source else ""
        return f"Translate the text{origin} to {display_name(target or '')}."

    def prefix(self, spec: FineTuneJobSpec) -> str:
        """What T5 was pretrained with (Raffel et al. 2020, appendix D)."""
        if spec.task.instruction:
            return f"{spec.task.instruction} "
        source, target = self.languages(spec)
        origin = f" {display_name(source)}" if source else ""
        return f"translate{origin} to {display_name(target or '')}: "

    def languages(self, spec: FineTuneJobSpec) -> tuple[str | None, str | None]:
        return spec.task.source_language, spec.task.target_language

    def check(self) -> UntranslatedRows:
        return UntranslatedRows()


task = pair_forms(Translation())
