"""What a step of a training needs, from the shapes of its tensors: the model is built, and runs, without weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.fused_loss import FusedLoss, plain_output, reference
from finetune_trainer.modelling.loading import LoadedModel, attention_settings, load, outside_backbone, set_padding
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.models import weight_files
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.batches import BatchSizes, EpochBatches
from finetune_trainer.train.data import TrainingDataset
from finetune_trainer.train.model import trained_head

_LOSS_BYTES = 12
"""Bytes for each logit that the backward pass of the loss takes besides what is kept: its gradient, that of its
logarithm, and a product of both, in FP32."""


@dataclass(frozen=True)
class StepShapes:
    """The sizes of the model to train, and of its longest micro-batch."""

    parameters: int
    """Of the base model with the head of the task."""
    trained: int
    """Trained parameters, those of an adapter included."""
    activation_bytes: int | None
    """What the forward pass of the longest micro-batch keeps for the backward pass, with what that of the loss takes;
    None if the model cannot run without weights."""
    recomputed_bytes: int | None
    """The same where activations are recomputed in the backward pass: the inputs of all layers, and one whole layer."""


def head_of(directory: Path, spec: FineTuneJobSpec, report: DataReport, task: TaskForm) -> tuple[str, ...]:
    """Names of the modules that are trained fully and stored with an adapter.

    Where the weights of the model are not on this machine, they are those that the task adds to such a model.
    """
    model_class = task.model_class(report)
    if weight_files(directory):
        loaded = load(
            model_class.auto_class,
            directory,
            torch.float32,
            f"model.uri {spec.model.uri} ({report.model.architecture})",
            new_head=model_class.new_head,
            empty=True,
            **model_class.settings,
            **attention_settings(report.handling),
        )
        return trained_head(loaded.model, task, loaded.random)
    with torch.device("meta"):
        model = model_class.auto_class.from_config(_config(directory, model_class.settings))
    if model.get_output_embeddings() is not None:
        return ()
    return tuple(dict.fromkeys([*task.head_modules(model), *outside_backbone(model)]))


def measure(
    directory: Path,
    spec: FineTuneJobSpec,
    report: DataReport,
    *,
    task: TaskForm,
    head: Sequence[str],
    dtype: torch.dtype,
    fuses: bool,
    data: TrainingDataset,
    sizes: BatchSizes,
) -> StepShapes:
    """Attach the method of ``spec`` to the model, and run its longest micro-batch.

    Args:
        directory: Directory with ``config.json`` of the base model.
        spec: The spec of the job.
        report: The report about the prepared data.
        task: The task.
        head: The result of `head_of`.
        dtype: The type that the forward pass computes in.
        fuses: Whether the loss is computed from hidden states where the model allows it.
        data: The training rows.
        sizes: Division of a global batch.

    Raises:
        StageFailure: BadConfiguration when the method does not fit the model.
    """
    method = method_of(spec.method.type)
    model_class = task.model_class(report)
    config = _config(directory, model_class.settings)
    reduced = not method.trains_base or spec.distributed.zero.stage > 0
    with torch.device("meta"):
        model = model_class.auto_class.from_config(
            config, dtype=dtype if reduced else torch.float32, **attention_settings(report.handling)
        )
    set_padding(model, report.padding)
    model.config.use_cache = False
    parameters = sum(parameter.numel() for parameter in model.parameters())
    attachment = Attachment(spec, task.adapter_task, tuple(head), report.handling.untrained, trial=True)
    trained_model = method.attach(LoadedModel(model, frozenset()), attachment)
    trained = sum(parameter.numel() for parameter in trained_model.parameters() if parameter.requires_grad)
    rows = next(iter(EpochBatches(data.lengths, sizes, 0, spec.training.seed)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # PEFT keeps numbers of tokens outside of modules.
    # DeepSpeed casts adapters too; without it they stay in FP32.
    place(trained_model, mode, dtype if spec.distributed.zero.stage > 0 else None)
    batch = task.collator(report.padding, model)([data[row] for row in rows])
    output = plain_output(trained_model) if fuses else None
    step = _Step(mode, trained_model, task, batch, dtype, FusedLoss(output, reference, dtype) if output else None)
    kept = step.kept()
    recomputes = kept is not None and not spec.method.type.row.never_recomputed
    return StepShapes(parameters, trained, kept, step.recomputed(kept or 0, method.trains_base) if recomputes else None)


@dataclass(frozen=True)
class _Step:
    """The forward pass of a micro-batch whose tensors have no storage."""

    mode: FakeTensorMode
    model: Any
    task: TaskForm
    batch: Mapping[str, torch.Tensor]
    dtype: torch.dtype
    fused: FusedLoss | None
    """Lets the model give hidden states in place of logits."""

    def kept(self) -> int | None:
        """Bytes that it keeps for the backward pass, besides the parameters, with what that of the loss takes."""
        model = self.model
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        sizes: dict[int, int] = {}
        alive: list[torch.Tensor] = []  # A freed storage could give its address to another one.

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)
            return tensor

        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        known = inspect.signature(base.forward).parameters
        cast = nullcontext() if self.dtype is torch.float32 else torch.autocast("cpu", dtype=self.dtype)
        model.train()
        try:
            hidden = self.fused.hidden_states() if self.fused else nullcontext()
            with self.mode, saved_tensors_hooks(keep, lambda tensor: tensor), cast, hidden:
                inputs = {name: torch.zeros(one.shape, dtype=one.dtype) for name, one in self.batch.items()}
                labels = inputs.pop("labels")
                logits = logits_of(model(**{name: one for name, one in inputs.items() if name in known}))
                if self.fused is None:
                    _loss(self.task, logits, labels)
        except Exception:  # Of any kind: some models read values of tensors, which a tensor without storage has not.
            return None
        return sum(sizes.values()) + _LOSS_BYTES * logits.numel()

    def recomputed(self, kept: int, trains_base: bool) -> int | None:
        """The same with activations that are recomputed; ``kept`` is the result without."""
        model = self.model
        if not getattr(model, "supports_gradient_checkpointing", False):
            return None
        model.activation_checkpointing_enable({"use_reentrant": False})
        if not trains_base:
            model.enable_input_require_grads()
        inputs = self.kept()
        layers = int(getattr(model.config.get_text_config(), "num_hidden_layers", None) or 1)
        return None if inputs is None or inputs >= kept else inputs + (kept - inputs) // layers


def place(model: torch.nn.Module, mode: FakeTensorMode, dtype: torch.dtype | None) -> None:
    """Replace the tensors of a model on the device ``meta``, on which masks cannot be made, by those of ``mode``.

    They claim to be on the CPU, whose attention keeps what that of a GPU keeps; ``dtype`` is that of all parameters, if
    it is not their own.
    """
    placed: dict[int, Any] = {}  # Tied weights stay tied.
    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in placed:
                    empty = torch.empty(parameter.shape, dtype=dtype or parameter.dtype)
                    placed[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = placed.get(id(parameter))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _loss(task: TaskForm, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Compute the loss of the task, or where it needs values, or there is another objective, a likelihood."""
    try:
        task.loss(logits, labels, torch.tensor(1))
    except Exception:  # Of any kind: labels of another shape, or tensors whose values decide.
        logits.float().log_softmax(dim=-1)


def _config(directory: Path, settings: Mapping[str, Any]) -> Any:
    """The configuration of the model, with as many labels as the task has."""
    labels = {name: value for name, value in settings.items() if name == "num_labels"}
    return AutoConfig.from_pretrained(directory, **labels)
