"""Starts and stops the worker processes of a stage.

This module replaces torchrun, which exits with code 1 whatever the failure, kills workers 30 s after SIGTERM even
during a checkpoint, and needs one more process that imports torch. For a static gang, torchrun otherwise only sets the
environment variables that the ``env://`` initialisation of torch.distributed reads; `rank_environment` sets them here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune_api.stage import Device, Stage, StageConfig
from finetune_trainer.context import EVENTS_FD_VARIABLE

WORKER_INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in every pod of an Indexed Job."""

EventHandler = Callable[[int, bytes], None]


def worker_index() -> int:
    """Index of this pod among the workers; 0 outside an Indexed Job."""
    return int(os.environ.get(WORKER_INDEX_VARIABLE, "0"))


def rank_environment(config: StageConfig, local_rank: int, cores: int) -> dict[str, str]:
    """Environment variables of one worker process, on top of those of the host process.

    Args:
        config: The stage's configuration.
        local_rank: Index of the process in this pod.
        cores: CPU cores of this pod, divided among its processes.
    """
    processes = config.world.processes_per_worker
    environment = {
        "RANK": str(worker_index() * processes + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(config.world.size),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": config.main_address,
        "MASTER_PORT": str(config.main_port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes))),
        # Spinning OpenMP threads slow down a busy machine severalfold.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false" if processes > 1 else "true",
        # DeepSpeed builds its ops with ninja, which is in the interpreter's directory but not always on the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    if config.world.device is Device.CPU:
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


@dataclass
class WorkerProcess:
    """A running worker process."""

    rank: int
    process: subprocess.Popen[bytes]
    reader: threading.Thread
    failure: dict[str, Any] | None = field(default=None)


def start_workers(config: StageConfig, config_path: Path, on_event: EventHandler) -> list[WorkerProcess]:
    """Start all worker processes of this pod.

    Args:
        config: The stage's configuration.
        config_path: The file that the workers read the configuration from.
        on_event: Called with the rank and the line for each line that a worker sends, on a thread per worker.
    """
    cores = len(os.sched_getaffinity(0))
    workers = []
    for local_rank in range(config.world.processes_per_worker if config.stage is Stage.TRAIN else 1):
        environment = os.environ | rank_environment(config, local_rank, cores)
        if config.stage is not Stage.TRAIN:
            environment |= {"RANK": "0", "WORLD_SIZE": "1"}
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer.worker", str(config_path)],
            env=environment | {EVENTS_FD_VARIABLE: str(write_end)},
            pass_fds=(write_end,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(write_end)
        rank = int(environment["RANK"])
        reader = threading.Thread(
            target=_read_lines, args=(os.fdopen(read_end, "rb"), rank, on_event), name=f"rank{rank}", daemon=True
        )
        reader.start()
        workers.append(WorkerProcess(rank, process, reader))
    return workers


def _read_lines(pipe: IO[bytes], rank: int, on_event: EventHandler) -> None:
    with pipe:
        for line in pipe:
            on_event(rank, line)


def signal_workers(workers: list[WorkerProcess], number: signal.Signals) -> None:
    """Send a signal to every running worker; SIGKILL is sent to its whole process group."""
    for worker in workers:
        if worker.process.poll() is not None:
            continue
        try:
            if number is signal.SIGKILL:
                os.killpg(worker.process.pid, number)
            else:
                worker.process.send_signal(number)
        except ProcessLookupError:
            continue
