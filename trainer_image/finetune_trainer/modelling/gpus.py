"""The hardware of the processes: the GPUs that Kubernetes has allocated, or CPUs."""

from __future__ import annotations

import torch

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Device, World


def require_gpus(stage: str, count: int) -> None:
    """Check that torch finds the allocated GPUs; otherwise the stage would run on the CPU or fail with unclear errors.

    Args:
        stage: Name of the stage for the message, such as "training".
        count: Number of allocated GPUs.

    Raises:
        StageFailure: GpuUnavailable when torch finds fewer.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        raise StageFailure(
            Reason.GPU_UNAVAILABLE,
            f"The {stage} was given {count} GPU{'s' if count > 1 else ''} but torch finds {found or 'none'}; check the "
            "GPU driver and the device plugin of the node, and that the torch build of the trainer image supports its "
            "GPUs",
        )


def hardware_in_words(world: World) -> str:
    """The hardware of all processes, such as ``16 × NVIDIA H200`` or ``2 CPU processes``."""
    if world.device is Device.GPU:
        return f"{world.size} × {torch.cuda.get_device_name()}"
    return f"{world.size} CPU process{'es' if world.size > 1 else ''}"
