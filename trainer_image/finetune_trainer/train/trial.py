"""Attaches a method to a model without weights, to refuse settings that do not fit before a GPU is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Quantization
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.loading import LoadedModel, outside_backbone
from finetune_trainer.modelling.quantizing import exact_modules, rounded_parameters
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm


def try_method(
    directory: Path, spec: FineTuneJobSpec, report: DataReport, task: TaskForm, adapter: Path | None = None
) -> int | None:
    """Attach the method, or ``adapter``, to the model that ``config.json`` in ``directory`` describes.

    Returns:
        The number of weights that ``model.quantization`` rounds; None without it.

    Raises:
        StageFailure: BadConfiguration when the quantisation or the settings of the method do not fit the model.
    """
    model_class = task.model_class(report)
    labels = {name: value for name, value in model_class.settings.items() if name == "num_labels"}
    config = AutoConfig.from_pretrained(directory, **labels)
    with torch.device("meta"):
        model = model_class.auto_class.from_config(config, dtype=torch.float32)  # That of the trained parameters.
    rounded = None if spec.model.quantization is Quantization.NONE else _rounded(model, config, spec, task)
    # A model without an output for each token gets a head of its own for the task.
    head = () if model.get_output_embeddings() is not None else tuple(outside_backbone(model))
    loaded = LoadedModel(model, frozenset())
    method_of(spec.method.type).attach(
        loaded, Attachment(spec, task.adapter_task, head, report.handling.untrained, adapter=adapter, trial=True)
    )
    return rounded


def _rounded(model: Any, config: Any, spec: FineTuneJobSpec, task: TaskForm) -> int:
    if getattr(config, "quantization_config", None) is not None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{spec.model.uri} is quantised already, as the quantization_config in its config.json says: set model.uri "
            "to the model that it was made of",
        )
    count = rounded_parameters(model, exact_modules(model, task.head_modules(model), ()))
    if not count:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"model.quantization {spec.model.quantization} is for linear layers, and {type(model).__name__} has none "
            "that bitsandbytes can round: remove it",
        )
    return count
