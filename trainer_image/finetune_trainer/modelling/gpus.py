"""Check that torch can use the GPUs that Kubernetes has allocated to this pod."""

from __future__ import annotations

import torch

from finetune_api.failures import Reason, StageFailure


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
