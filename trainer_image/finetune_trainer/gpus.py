"""Whether the GPUs that Kubernetes gave this pod are there for torch."""

from __future__ import annotations

import torch

from finetune_api.failures import Reason, StageFailure


def require_gpus(stage: str, count: int) -> None:
    """See that torch finds as many GPUs as the pod was given; without, it would compute on the CPU, or fail obscurely.

    Raises:
        StageFailure: GpuUnavailable, when there are fewer.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        raise StageFailure(
            Reason.GPU_UNAVAILABLE,
            f"The {stage} was given {count} GPU{'s' if count > 1 else ''} but torch finds {found or 'none'}; look at "
            "driver and device plugin of the node, and whether the trainer image has a torch for its GPUs",
        )
