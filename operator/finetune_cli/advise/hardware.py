"""The hardware that a job is advised for: this machine, or GPUs by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device, Stage, World
from finetune_api.tables.gpus import Gpu
from finetune_cli.fields import nearest
from finetune_cli.local import Machine
from finetune_cli.local.machine import describe_world
from finetune_core.policies.world import world_of

_MOST_GPUS = 1024
_GPUS_OF_A_WORKER = 8
"""Of the usual machines, where a job needs several."""
_MOST_OF_A_WORKER = 16


@dataclass(frozen=True)
class Hardware:
    """What the training would run on."""

    world: World
    gpu: Gpu | None = None
    """None for this machine."""

    @property
    def in_words(self) -> str:
        if self.gpu is not None:
            return f"{self.world.size} {self.gpu}"
        return f"{describe_world(self.world)} of this machine"

    @property
    def distributed(self) -> dict[str, int]:
        """The fields of spec.distributed for GPUs by name; none for this machine."""
        return {} if self.gpu is None else shape_of(self.world.size)


def this_machine(spec: FineTuneJobSpec, machine: Machine) -> Hardware:
    """This machine, on which a job may run with fewer processes than it requests."""
    return Hardware(machine.fit(world_of(Stage.TRAIN, spec), spec.training.batch_size))


def named(text: str, spec: FineTuneJobSpec) -> Hardware:
    """The GPUs that ``--gpu`` names, such as ``H100x8``; as many of them as divide the batch.

    Raises:
        ValueError: It names none; the message says what is possible.
    """
    match = re.fullmatch(r"\s*([A-Za-z0-9-]+?)(?:\s*[xX×*]\s*(\d{1,4}))?\s*", text)
    known = list(map(str, Gpu))
    name = next((one for one in known if match and one.lower() == match[1].lower()), None)
    if match is None or name is None:
        meant = nearest(match[1] if match else text, known)
        guess = f"; did you mean {meant}?" if meant else "."
        raise ValueError(f"{text} is no known GPU with a number, such as H100x8{guess} Known are {', '.join(known)}.")
    count = int(match[2] or 1)
    if not 1 <= count <= _MOST_GPUS:
        raise ValueError(f"{text} has {count} GPUs; a job has from 1 to {_MOST_GPUS}.")
    wanted = World(workers=1, processes_per_worker=count, device=Device.GPU)
    world = Machine(gpus=count, cores=1).fit(wanted, spec.training.batch_size)
    while shape_of(world.size) == {}:
        world = Machine(gpus=world.size - 1, cores=1).fit(wanted, spec.training.batch_size)
    return Hardware(world, Gpu(name))


def shape_of(count: int) -> dict[str, int]:
    """Workers and GPUs of each for ``count`` GPUs; empty if they do not fill equal workers."""
    if count <= _MOST_OF_A_WORKER:
        return {"workers": 1, "gpusPerWorker": count}
    if count % _GPUS_OF_A_WORKER:
        return {}
    return {"workers": count // _GPUS_OF_A_WORKER, "gpusPerWorker": _GPUS_OF_A_WORKER}
