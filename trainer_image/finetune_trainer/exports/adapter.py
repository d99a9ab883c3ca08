"""Adapter: the weights of the adapter, and a reference to the base model."""

from __future__ import annotations

from pathlib import Path

from finetune_api.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.exports.base import ExportInputs, move_files, on_hub, published_base
from finetune_trainer.json_files import read_json, write_json


class Adapter:
    """The adapter export; implements `finetune_trainer.exports.base.Export`."""

    library = "peft"
    is_adapter = True

    def write(self, inputs: ExportInputs, target: Path) -> None:
        move_files(inputs.trained, target, [ADAPTER_WEIGHTS], [ADAPTER_CONFIG])
        settings = read_json(target / ADAPTER_CONFIG)
        settings["base_model_name_or_path"] = published_base(inputs.spec.model.uri)
        settings["revision"] = inputs.data.model.revision if on_hub(inputs.spec) else None
        write_json(target / ADAPTER_CONFIG, settings)


export = Adapter()
