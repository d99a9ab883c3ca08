"""What this machine has, and how a job that asks for more is made to fit."""

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
        """This machine, as far as CUDA_VISIBLE_DEVICES and the CPU affinity let it be used."""
        nodes = [node for node in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia[0-9]+", node.name)]
        return cls(gpus=visible_gpus(len(nodes), os.environ.get("CUDA_VISIBLE_DEVICES")), cores=_cores())

    def fit(self, world: World, batch_size: int) -> World:
        """``world`` as one worker with as many processes as this machine can run at once.

        A batch is shared out evenly, so the number of processes divides ``batch_size``.
        """
        device = world.device if self.gpus else Device.CPU
        most = min(world.size, self.gpus if device is Device.GPU else self.cores)
        processes = next(count for count in range(max(most, 1), 0, -1) if batch_size % count == 0)
        return World(workers=1, processes_per_worker=processes, device=device)

    def note(self, wanted: World, batch_size: int) -> str | None:
        """One sentence when training runs on something else than the spec asks for."""
        got = self.fit(wanted, batch_size)
        if (got.size, got.device) == (wanted.size, wanted.device):
            return None
        cores = f"{self.cores} {_plural('core', self.cores)}"
        if wanted.device is Device.CPU:
            has = cores
        else:
            has = f"{self.gpus} {_plural('GPU', self.gpus)}" if self.gpus else f"no GPU and {cores}"
        return f"The spec asks for {named(wanted)}; this machine has {has}, so training runs on {named(got)}."


def named(world: World) -> str:
    """A world in words: ``8 GPUs``, ``2 CPU processes``."""
    if world.device is Device.GPU:
        return f"{world.size} {_plural('GPU', world.size)}"
    return f"{world.size} CPU {'process' if world.size == 1 else 'processes'}"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def visible_gpus(present: int, chosen: str | None) -> int:
    """How many of ``present`` GPUs CUDA_VISIBLE_DEVICES lets be used; None when it is not set."""
    if chosen is None:
        return present
    devices = [entry.strip() for entry in chosen.split(",")]
    # As CUDA reads it: what stands behind an entry that is no device is not visible.
    listed = len(list(itertools.takewhile(lambda entry: entry not in ("", "-1"), devices)))
    return listed if devices[0].startswith("MIG-") else min(listed, present)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
