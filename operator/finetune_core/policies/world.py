"""The world (workers and processes) of each stage."""

from __future__ import annotations

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device, Stage, World


def world_of(stage: Stage, spec: FineTuneJobSpec) -> World:
    """The world of the spec for train, one process for other stages; those that load a model use GPUs, unless it is
    behind an endpoint.
    """
    gpus = 0 if spec.model.endpoint else spec.distributed.gpus_per_worker
    device = Device.GPU if gpus > 0 else Device.CPU
    if stage is Stage.TRAIN:
        return World(workers=spec.distributed.workers, processes_per_worker=max(gpus, 1), device=device)
    if stage in (Stage.RESPOND, Stage.EVALUATE):
        return World(workers=1, processes_per_worker=1, device=device)
    return World(workers=1, processes_per_worker=1, device=Device.CPU)
