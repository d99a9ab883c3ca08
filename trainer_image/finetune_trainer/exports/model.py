"""Model: all weights of the tuned model."""

from __future__ import annotations

from pathlib import Path

from finetune_api.layout import GENERATION_CONFIG, MODEL_CONFIG, WEIGHTS_INDEX
from finetune_trainer.exports.base import ExportInputs, move_files


class Model:
    """The model export; implements `finetune_trainer.exports.base.Export`."""

    library = "transformers"
    is_adapter = False

    def write(self, inputs: ExportInputs, target: Path) -> None:
        move_files(inputs.trained, target, ["model*.safetensors", WEIGHTS_INDEX], [MODEL_CONFIG, GENERATION_CONFIG])


export = Model()
