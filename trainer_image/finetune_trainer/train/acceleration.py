"""Faster computations of what a model computes anyway; each is used only where it gives the same results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.exceptions import first_line
from finetune_trainer.methods import method_of
from finetune_trainer.modelling import packed_attention
from finetune_trainer.modelling.fused_loss import FusedLoss, agrees, liger_cross_entropy, plain_output
from finetune_trainer.modelling.fused_norms import fuse_norms, liger_norm
from finetune_trainer.modelling.packed_attention import PackedAttention
from finetune_trainer.modelling.precision import Hardware, dtype_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.tasks.decoder import DecoderForm
from finetune_trainer.train.compiling import compile_layers
from finetune_trainer.train.memory import GpuMemory, fits

if TYPE_CHECKING:
    from finetune_trainer.train.trainer import FineTuneTrainer

_log = logging.getLogger(__name__)


@dataclass
class Acceleration:
    """What a training computes in another way."""

    attention: PackedAttention | None = None
    loss: FusedLoss | None = None
    norms: int = 0
    compiled: int = 0
    recomputes: bool = False
    """Whether activations are recomputed in the backward pass."""

    @property
    def in_words(self) -> list[str]:
        """Each computation, for log, report and card; of attention what ran until now."""
        attention = self.attention
        words = []
        if attention is not None and attention.layers:
            part = f"; {attention.fallbacks:,} of {attention.layers + attention.fallbacks:,} layers with SDPA"
            words.append(f"attention of packed rows with varlen_attn{part if attention.fallbacks else ''}")
        elif attention is not None and attention.fallbacks:
            words.append("attention of packed rows with SDPA")
        if self.loss is not None:
            words.append("output layer and cross entropy in one kernel of Liger")
        if self.norms:
            words.append(f"{self.norms} RMS norms with kernels of Liger")
        if self.compiled:
            words.append(f"{self.compiled} layers compiled")
        if self.recomputes:
            words.append("activations recomputed in the backward pass")
        return words


def accelerate(
    model: Any,
    spec: FineTuneJobSpec,
    report: DataReport,
    *,
    task: TaskForm,
    own_loss: bool,
    precision: Precision,
    device: torch.device,
) -> Acceleration:
    """Let ``model``, to which the method is attached, compute faster.

    Args:
        model: The model.
        spec: The spec of the job.
        report: The report about the prepared data.
        task: The task.
        own_loss: Whether the loss is that of the task, without weights of labels.
        precision: The resolved precision.
        device: Device of the training.

    Raises:
        StageFailure: BadConfiguration when the model cannot be compiled.
    """
    found = Acceleration()
    partitioned = spec.distributed.zero.stage == 3
    on_gpu = device.type == "cuda"
    if on_gpu and precision is not Precision.FP32:
        if report.handling.packing and packed_attention.supported():
            found.attention = _packed()
        if own_loss and may_fuse_loss(spec, task, precision, on_gpu=on_gpu):
            found.loss = _or_none("the fused loss", lambda: _fused_loss(model, device, dtype_of(precision)))
        if not spec.training.compile and not partitioned:  # The compiler fuses norms by itself.
            norms = _or_none("fused norms", lambda: fuse_norms(model, liger_norm(), device, dtype_of(precision)))
            found.norms = norms or 0
    if spec.training.compile:
        found.compiled = compile_layers(model)
    return found


def may_fuse_loss(spec: FineTuneJobSpec, task: TaskForm, precision: Precision, *, on_gpu: bool) -> bool:
    """Whether the loss of the task may be computed from hidden states, if the model and the kernel allow it."""
    reduced = on_gpu and precision is not Precision.FP32
    return reduced and isinstance(task, DecoderForm) and spec.distributed.zero.stage < 3


def recompute_if_needed(trainer: FineTuneTrainer, spec: FineTuneJobSpec, hardware: Hardware, *, tries: bool) -> bool:
    """Let ``trainer`` recompute activations in the backward pass if the spec says so, or if memory requires it.

    Args:
        trainer: The trainer before the training.
        spec: The spec of the job.
        hardware: The hardware of the training.
        tries: Whether the loss of a batch can be computed before the first step.

    Returns:
        Whether it recomputes them.
    """
    needed = spec.training.activation_checkpointing
    if needed is None:
        possible = tries and not spec.method.type.row.never_recomputed and hardware.device.type == "cuda"
        needed = possible and not _fits(trainer, spec.distributed.zero.stage, hardware)
    trainer.args.activation_checkpointing = needed
    model: Any = trainer.model
    if needed and not method_of(spec.method.type).trains_base:
        model.enable_input_require_grads()
    return needed


def _fits(trainer: FineTuneTrainer, zero: int, hardware: Hardware) -> bool:
    """Whether a step fits into the memory of every rank; with ZeRO-3 the first step shows it."""
    if zero == 3:
        return True
    model: Any = trainer.model
    device = trainer.args.device
    if any(parameter.device != device for parameter in model.parameters()):
        model.to(device)
    with hardware.autocast():
        shared_by = trainer.args.world_size if zero else 1
        enough = fits(model, trainer.longest_loss, GpuMemory(device), shared_by=shared_by)
    return not trainer.run.total(torch.tensor(float(not enough)))


def _packed() -> PackedAttention:
    from torch.nn.attention.varlen import varlen_attn

    kernel: Any = varlen_attn
    attention = PackedAttention(kernel)
    packed_attention.install(attention)
    return attention


def _fused_loss(model: Any, device: torch.device, dtype: torch.dtype) -> FusedLoss | None:
    output = plain_output(model)
    if output is None:
        return None
    kernel = liger_cross_entropy()
    if not agrees(kernel, output, device, dtype):
        _log.warning("the fused loss is off, because it differs from that of PyTorch on this GPU")
        return None
    return FusedLoss(output, kernel, dtype)


def _or_none(name: str, find: Callable[[], Any]) -> Any:
    """The result of ``find``; None, and a line in the log, where Liger is missing or cannot compile its kernels."""
    try:
        return find()
    except (StageFailure, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Of the compiler of Triton, among others.
        _log.warning("%s is off: %s: %s", name, type(error).__name__, first_line(error, "no message"))
        return None
