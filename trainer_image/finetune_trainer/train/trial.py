"""Attaches a method to a model without weights, to refuse settings that do not fit before a GPU is held."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.loading import LoadedModel, outside_backbone
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm


def try_method(directory: Path, spec: FineTuneJobSpec, report: DataReport, task: TaskForm) -> None:
    """Attach the method to the model that ``config.json`` in ``directory`` describes.

    Raises:
        StageFailure: BadConfiguration when the settings of the method do not fit the model.
    """
    model_class = task.model_class(report)
    labels = {name: value for name, value in model_class.settings.items() if name == "num_labels"}
    with torch.device("meta"):
        model = model_class.auto_class.from_config(AutoConfig.from_pretrained(directory, **labels))
    # A model without an output for each token gets a head of its own for the task.
    head = () if model.get_output_embeddings() is not None else tuple(outside_backbone(model))
    loaded = LoadedModel(model, frozenset())
    method_of(spec.method.type).attach(
        loaded, Attachment(spec, task.adapter_task, head, report.handling.untrained, trial=True)
    )
