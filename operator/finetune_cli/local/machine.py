"""The hardware of this machine, and how the world of a job is reduced to it."""

from __future__ import annotations

import itertools
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from finetune_api.stage import Device, World


@dataclass(frozen=True)
class Machine:
    """The hardware that stages may use."""

    gpus: int
    cores: int

    @classmethod
    def detect(cls) -> Machine:
        """This machine, within CUDA_VISIBLE_DEVICES and the CPU affinity."""
        nodes = [node for node in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia[0-9]+", node.name)]
        return cls(gpus=visible_gpus(len(nodes), os.environ.get("CUDA_VISIBLE_DEVICES")), cores=_cores())

    def fit(self, world: World, batch_size: int) -> World:
        """``world`` reduced to one worker with as many processes as this machine can run.

        The number of processes divides ``batch_size``, so that each rank gets the same number of examples.
        """
        device = world.device if self.gpus else Device.CPU
        most = min(world.size, self.gpus if device is Device.GPU else self.cores)
        processes = next(count for count in range(max(most, 1), 0, -1) if batch_size % count == 0)
        return World(workers=1, processes_per_worker=processes, device=device)

    def note(self, wanted: World, batch_size: int) -> str | None:
        """A sentence if training runs with another world than the spec requests."""
        actual = self.fit(wanted, batch_size)
        if (actual.size, actual.device) == (wanted.size, wanted.device):
            return None
        cores = f"{self.cores} {_plural('core', self.cores)}"
        if wanted.device is Device.CPU:
            has = cores
        else:
            has = f"{self.gpus} {_plural('GPU', self.gpus)}" if self.gpus else f"no GPU and {cores}"
        return (
            f"The spec requests {describe_world(wanted)}; this machine has {has}, so training runs on "
            f"{describe_world(actual)}."
        )


def describe_world(world: World) -> str:
    """A world as text: ``8 GPUs``, ``2 CPU processes``."""
    if world.device is Device.GPU:
        return f"{world.size} {_plural('GPU', world.size)}"
    return f"{world.size} CPU {'process' if world.size == 1 else 'processes'}"


def free_ports(count: int) -> list[int]:
    """Different free ports of 127.0.0.1."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def visible_gpus(present: int, chosen: str | None) -> int:
    """How many of ``present`` GPUs are visible; ``chosen`` is CUDA_VISIBLE_DEVICES, None if it is not set."""
    if chosen is None:
        return present
    devices = [entry.strip() for entry in chosen.split(",")]
    # As in CUDA, devices after an invalid entry are not visible.
    listed = len(list(itertools.takewhile(lambda entry: entry not in ("", "-1"), devices)))
    return listed if devices[0].startswith("MIG-") else min(listed, present)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
