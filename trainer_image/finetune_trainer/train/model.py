"""Loads the base model for training and attaches what the method trains."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.loading import load
from finetune_trainer.modelling.precision import dtype_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import Task


def load_model(
    directory: Path, spec: FineTuneJobSpec, report: DataReport, *, task: Task, pad_token_id: int, precision: Precision
) -> Any:
    """The model to train.

    Raises:
        StageFailure: BadConfiguration, when the model does not fit the task, or the method's settings the model.
    """
    method = method_of(spec.method.type)
    # Frozen weights may be rounded; trained ones only where DeepSpeed keeps a copy in full precision.
    rounded = not method.trains_base or spec.distributed.zero.stage > 0
    chosen = task.model_class(report)
    loaded = load(
        chosen.auto_class,
        directory,
        dtype_of(precision) if rounded else torch.float32,
        f"model.uri {spec.model.uri} ({report.model.architecture})",
        **chosen.settings,
        **_attention(spec),
    )
    model: Any = loaded.model
    model.config.pad_token_id = pad_token_id
    model.config.use_cache = False
    if not method.trains_base and spec.training.activation_checkpointing:
        model.enable_input_require_grads()
    head = _head(model, task, loaded.random)
    return method.attach(loaded, Attachment(spec, task.adapter_task, head))


def _head(model: PreTrainedModel, task: Task, missing_keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules that are trained whole and stored with an adapter: what the checkpoint does not have is
    random.
    """
    return tuple(sorted({key.rpartition(".")[0] for key in missing_keys} | set(task.head_modules(model))))


def _attention(spec: FineTuneJobSpec) -> dict[str, str]:
    """Flash attention computes packed rows without their empty parts; PyTorch's own is there everywhere."""
    if not spec.task.type.row.packs:
        return {}
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn")
    return {"attn_implementation": "flash_attention_2" if flash else "sdpa"}
