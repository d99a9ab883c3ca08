"""Starts and stops the worker processes of a stage.

Not torchrun: its agent answers every failure with exit code 1, gives workers 30 s after a SIGTERM however long their
checkpoint takes, and costs another process that imports torch. What it does for a static gang is the environment that
torch.distributed's ``env://`` initialisation reads, which is set here.
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
    """Environment of one worker process, on top of the host's own."""
    processes = config.world.processes_per_worker
    environment = {
        "RANK": str(worker_index() * processes + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(config.world.size),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": config.main_address,
        "MASTER_PORT": str(config.main_port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes))),
        # Threads that spin while they wait slow a busy machine down several times.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false" if processes > 1 else "true",
        # Ninja, which builds DeepSpeed's ops, lies beside the interpreter and need not be on the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    if config.world.device is Device.CPU:
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


@dataclass
class WorkerProcess:
    """One running worker."""

    rank: int
    process: subprocess.Popen[bytes]
    reader: threading.Thread
    failure: dict[str, Any] | None = field(default=None)


def start_workers(config: StageConfig, config_path: Path, on_event: EventHandler) -> list[WorkerProcess]:
    """Start all processes of this pod; each line they send is given to ``on_event(rank, line)``, on a thread."""
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
    """Send a signal to every worker that still runs; SIGKILL reaches what it started, too."""
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
