"""The world (workers and processes) of each stage."""

from __future__ import annotations

from finetune_api.spec import DistributedSpec
from finetune_api.stage import Device, Stage, World


def world_of(stage: Stage, distributed: DistributedSpec) -> World:
    """The world of the spec for train, one process for other stages; only train and evaluate use GPUs."""
    device = Device.GPU if distributed.gpus_per_worker > 0 else Device.CPU
    if stage is Stage.TRAIN:
        return World(
            workers=distributed.workers, processes_per_worker=max(distributed.gpus_per_worker, 1), device=device
        )
    if stage is Stage.EVALUATE:
        return World(workers=1, processes_per_worker=1, device=device)
    return World(workers=1, processes_per_worker=1, device=Device.CPU)
