"""Loads the base model for training, and attaches the method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.loading import attention_settings, load, set_padding
from finetune_trainer.modelling.precision import dtype_of
from finetune_trainer.modelling.quantizing import rounding_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm

_CPU = torch.device("cpu")
_NEW_HEADS = ("SEQ_CLS", "QUESTION_ANS")
"""PEFT task types whose head a base model lacks. Any other layer without weights in its files would be random."""


def load_model(
    directory: Path,
    spec: FineTuneJobSpec,
    report: DataReport,
    *,
    task: TaskForm,
    precision: Precision,
    device: torch.device = _CPU,
    adapter: Path | None = None,
) -> Any:
    """Load the base model and attach the method.

    Args:
        directory: Directory of the base model.
        spec: The spec of the job.
        report: The report about the prepared data.
        task: The task.
        precision: The resolved precision.
        device: Device of this process, where a rounded model is loaded.
        adapter: Directory of the adapter that training continues from; None for a new one.

    Returns:
        The model to train.

    Raises:
        StageFailure: BadConfiguration when the model does not fit the task, or the settings of the method do not fit
            the model; BadData when its files lack weights, except those of a new head.
    """
    method = method_of(spec.method.type)
    # Only frozen weights may have reduced precision, or weights of which DeepSpeed keeps a copy in FP32.
    reduced = not method.trains_base or spec.distributed.zero.stage > 0
    model_class = task.model_class(report)
    loaded = load(
        model_class.auto_class,
        directory,
        dtype_of(precision) if reduced else torch.float32,
        f"model.uri {spec.model.uri} ({report.model.architecture})",
        new_head=model_class.new_head,
        rounding=rounding_of(spec, task, device, partitioned=spec.distributed.zero.stage == 3),
        **model_class.settings,
        **attention_settings(report.handling),
    )
    if task.adapter_task not in _NEW_HEADS:
        loaded.complete()
    model: Any = loaded.model
    set_padding(model, report.padding)
    model.config.use_cache = False
    if not model_class.drops_out:
        without_dropout(model)
    head = trained_head(model, task, loaded.random)
    attachment = Attachment(
        spec,
        task.adapter_task,
        head,
        report.handling.untrained,
        initial_tokens=report.initial_tokens,
        adapter=adapter,
    )
    return method.attach(loaded, attachment)


def without_dropout(model: torch.nn.Module) -> None:
    """Set every probability of dropout in ``model`` to 0: those of its dropout layers, and the numbers of other layers.

    The configuration stays as it is, because it is published.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and "drop" in name.lower():
                setattr(module, name, 0.0)


def trained_head(model: PreTrainedModel, task: TaskForm, random: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules to train fully and store with an adapter: the task head, and modules with randomly
    initialised parameters, without those that are part of another one.
    """
    names = {key.rpartition(".")[0] for key in random} | set(task.head_modules(model))
    return tuple(sorted(name for name in names if not any(name.startswith(f"{other}.") for other in names)))
