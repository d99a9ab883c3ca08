"""Sessions of the local executor with real processes that implement the contract of a stage."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage
from finetune_cli.local import Executor, Machine, Snapshot, StateDirectory
from finetune_core.runs import RunId

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.stage_program")
MACHINE = Machine(gpus=1, cores=2)


class Session:
    """One `finetune run`, with its snapshots and its result."""

    def __init__(self, home: Path, job: FineTuneJob, **options: Any) -> None:
        self.home = home
        self.wanted = job
        self.options = options
        self.shown: list[Snapshot] = []
        self.acts: list[tuple[Callable[[Snapshot], bool], Callable[[Executor], None]]] = []

    def when(self, condition: Callable[[Snapshot], bool], act: Callable[[Executor], None]) -> Session:
        """Call a function once, when a condition is first true; in the order of the calls."""
        self.acts.append((condition, act))
        return self

    def run(self) -> FineTuneJob:
        meta = self.wanted.metadata
        with StateDirectory.locked(self.home / meta.namespace / meta.name) as state:
            return asyncio.run(self._run(state))

    async def _run(self, state: StateDirectory) -> FineTuneJob:
        executor = Executor(
            state, self.wanted, self._see, **{"machine": MACHINE, "stage_command": COMMAND, **self.options}
        )
        self.executor = executor
        async with asyncio.timeout(60):
            return await executor.run()

    def _see(self, snapshot: Snapshot) -> None:
        self.shown.append(snapshot)
        if self.acts and self.acts[0][0](snapshot):
            self.acts.pop(0)[1](self.executor)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.shown[-1].notes


def works_in(stage: Stage) -> Callable[[Snapshot], bool]:
    """Whether a snapshot shows a stage that reports progress."""
    return lambda shown: bool(
        shown.run and shown.run.id.stage is stage and shown.run.progress and shown.run.progress.done
    )


def attempts(job: FineTuneJob) -> dict[str, int]:
    return {str(stage.name): stage.attempt for stage in job.status.stages}


def directory(home: Path, stage: Stage, attempt: int = 1, revision: int = 1) -> Path:
    return StateDirectory(home / "team-a" / "intents").run(RunId(revision, stage, attempt)).path


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
