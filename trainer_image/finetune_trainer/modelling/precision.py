"""The precision of computations, for training and evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Precision
from finetune_api.stage import Device

if TYPE_CHECKING:
    import torch


def resolve_precision(precision: Precision, device: Device, bf16_supported: bool) -> Precision:
    """Resolve ``Auto`` and check that the device supports the precision.

    Raises:
        StageFailure: BadConfiguration when the device does not support the precision.
    """
    if precision is Precision.AUTO:
        return Precision.BF16 if device is Device.GPU and bf16_supported else Precision.FP32
    if precision is Precision.FP16 and device is Device.CPU:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, "training.precision FP16 requires a GPU: use Auto, BF16 or FP32 to train on CPUs"
        )
    if precision is Precision.BF16 and device is Device.GPU and not bf16_supported:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, "this GPU does not support training.precision BF16: use Auto, FP16 or FP32"
        )
    return precision


def bf16_supported(device: Device) -> bool:
    """Whether the device supports BF16 in hardware. GPUs before Ampere emulate it, which is slower than FP32."""
    import torch

    return device is Device.CPU or torch.cuda.is_bf16_supported(including_emulation=False)


def dtype_of(precision: Precision) -> torch.dtype:
    """The torch dtype of a resolved precision."""
    import torch

    return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: torch.float32}[precision]


def usable_hardware(precision: Precision, device: Device) -> Hardware:
    """The hardware for a precision, or in the default precision of ``device`` if it does not support it."""
    try:
        return Hardware.of(precision, device)
    except StageFailure:
        return Hardware.of(Precision.AUTO, device)


@dataclass(frozen=True)
class Hardware:
    """Device and dtype of a model."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, precision: Precision, device: Device) -> Hardware:
        """The hardware for ``training.precision`` on ``device``.

        Raises:
            StageFailure: BadConfiguration when the device does not support the precision.
        """
        import torch

        resolved = resolve_precision(precision, device, bf16_supported(device))
        return cls(torch.device("cuda" if device is Device.GPU else "cpu"), dtype_of(resolved))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes, because an adapter may have FP32 weights in a half-precision model."""
        import torch

        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)
