"""How much memory a process of a training needs for the weights of the model, and for what training adds to them."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec, Precision, Quantization
from finetune_api.stage import Device, PrepareResult, World
from finetune_api.tables.methods import Result

_OPTIMIZER_BYTES = 12
"""Bytes for each trained parameter: two moments of Adam and the weight, in FP32."""
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
    # With weight 0, training does not load the teacher.
    learns = spec.distillation and spec.distillation.generating_teacher is None and spec.distillation.weight
    teacher = model.teacher_parameters if learns else None
    of_teacher = (teacher or 0) * width / (world.size if spec.distributed.zero.stage == 3 else 1)
    return round(_bytes_of_base(spec, model.parameters, model.rounded_parameters, width, world) + of_teacher)


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


def training_bytes(spec: FineTuneJobSpec, sizes: Sizes, precision: Precision, world: World) -> int:
    """Bytes in each process for weights, gradients and optimizer state, with those of an adapter.

    Args:
        spec: The spec of the job.
        sizes: The model.
        precision: The resolved precision.
        world: The processes of the training.
    """
    width = _width(precision)
    base = _bytes_of_base(spec, sizes.parameters, sizes.rounded, width, world)
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


def _trained_width(spec: FineTuneJobSpec, width: int, world: World) -> float:
    """Bytes in each process for the gradient and the optimizer state of a trained parameter."""
    stage, processes = spec.distributed.zero.stage, world.size
    return width / (processes if stage >= 2 else 1) + _OPTIMIZER_BYTES / (processes if stage >= 1 else 1)


def _width(precision: Precision) -> int:
    """Bytes of a weight."""
    return 4 if precision is Precision.FP32 else 2


def _precision(spec: FineTuneJobSpec, world: World) -> Precision:
    chosen = spec.training.precision
    if chosen is Precision.AUTO:
        return Precision.BF16 if world.device is Device.GPU else Precision.FP32
    return chosen
