"""How much memory a process of a training needs for the weights of the model, and for what training adds to them."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec import DistillationMode, FineTuneJobSpec, Precision, Quantization
from finetune_api.stage import Device, PrepareResult, World
from finetune_api.tables.methods import Result

_MOMENTS = 8
"""Bytes for the two moments of Adam of a trained parameter, in FP32."""
_FP32 = 4
_ROUNDED_BYTES = {
    # With an 8-bit scale for each 64 weights, and a 32-bit one for each 256 of these.
    Quantization.NF4: 0.5 + 1 / 64 + 4 / (64 * 256),
    Quantization.INT8: 1.0,
}
"""Bytes for each weight that is rounded."""


def memory_bytes(spec: FineTuneJobSpec, model: PrepareResult, world: World) -> int:
    """Bytes in each process for weights, also of a teacher, gradients and optimizer state, without activations and
    adapter.
    """
    width = _width(_precision(spec, world))
    return round(
        _bytes_of_base(spec, model.parameters, model.rounded_parameters, width, world)
        + _bytes_of_teacher(spec, model.teacher_parameters, width, world)
    )


def teacher_bytes(spec: FineTuneJobSpec, model: PrepareResult, world: World) -> int:
    """Bytes of the weights of a teacher that generates answers."""
    return round((model.teacher_parameters or 0) * _width(_precision(spec, world)))


@dataclass(frozen=True)
class Sizes:
    """Parameters of the model to train."""

    parameters: int
    """Of the base model with the head of the task."""
    rounded: int | None
    """Those that model.quantization rounds; None without it."""
    trained: int
    """Trained parameters, those of an adapter included."""
    teacher: int | None = None
    """Of a teacher whose logits are learned."""


def training_bytes(spec: FineTuneJobSpec, sizes: Sizes, precision: Precision, world: World) -> int:
    """Bytes in each process for weights, also of a teacher, gradients and optimizer state, with those of an adapter.

    Args:
        spec: The spec of the job.
        sizes: The model.
        precision: The resolved precision.
        world: The processes of the training.
    """
    width = _width(precision)
    base = _bytes_of_base(spec, sizes.parameters, sizes.rounded, width, world)
    base += _bytes_of_teacher(spec, sizes.teacher, width, world)
    return base if trains_all(spec) else round(base + sizes.trained * (width + _trained_width(spec, width, world)))


def trains_all(spec: FineTuneJobSpec) -> bool:
    """Whether the method trains the weights of the base model."""
    return spec.method.type.row.result is Result.MODEL


def _bytes_of_base(
    spec: FineTuneJobSpec, parameters: int, rounded_parameters: int | None, width: int, world: World
) -> int:
    """Bytes in each process for the base model, and for its gradients and optimizer state if it is trained."""
    if rounded_parameters:
        # Each process first holds the whole of a rounded model, also with ZeRO-3.
        rounded = min(rounded_parameters, parameters)
        return round(rounded * _ROUNDED_BYTES[spec.model.quantization] + (parameters - rounded) * width)
    weights = parameters * width / (world.size if spec.distributed.zero.stage == 3 else 1)
    return round(weights + (parameters * _trained_width(spec, width, world) if trains_all(spec) else 0))


def _bytes_of_teacher(spec: FineTuneJobSpec, parameters: int | None, width: int, world: World) -> int:
    taught = spec.distillation
    # With weight 0, training does not load the teacher.
    if not parameters or not taught or not taught.weight or taught.mode is not DistillationMode.LOGITS:
        return 0
    return round(parameters * width / (world.size if spec.distributed.zero.stage == 3 else 1))


def _trained_width(spec: FineTuneJobSpec, width: int, world: World) -> float:
    """Bytes in each process for the gradient and the optimizer state of a trained parameter."""
    stage, processes = spec.distributed.zero.stage, world.size
    gradients = width / (processes if stage >= 2 else 1)
    if stage == 0:  # Without DeepSpeed, weights that are trained are in FP32 in any case, once.
        return gradients + (_MOMENTS if width == _FP32 else _FP32 + _MOMENTS)
    # DeepSpeed has an FP32 copy of the weights, and makes one of gradients in half precision.
    copies = _FP32 if width == _FP32 else 2 * _FP32
    return gradients + (copies + _MOMENTS) / processes


def _width(precision: Precision) -> int:
    """Bytes of a weight."""
    return _FP32 if precision is Precision.FP32 else 2


def _precision(spec: FineTuneJobSpec, world: World) -> Precision:
    chosen = spec.training.precision
    if chosen is Precision.AUTO:
        return Precision.BF16 if world.device is Device.GPU else Precision.FP32
    return chosen
