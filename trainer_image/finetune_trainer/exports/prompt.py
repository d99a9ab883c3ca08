"""Prompt: what precedes a text, for a model that is named and not copied."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.exports.base import ExportInputs, move_files
from finetune_trainer.search.prompt import PROMPT_FILE
from finetune_trainer.search.record import SEARCH_FILE


class Prompt:
    """The prompt export; implements `finetune_trainer.exports.base.Export`."""

    library = "transformers"
    is_adapter = False

    def write(self, inputs: ExportInputs, target: Path) -> None:
        move_files(inputs.trained, target, [PROMPT_FILE], [SEARCH_FILE])


export = Prompt()
