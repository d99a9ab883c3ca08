"""Carries the plan of one job out as processes of this machine, until it ends or is asked to stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobStatus, spec_digest
from finetune_api.manifest import MANIFEST_NAME
from finetune_api.stage import Stage, World
from finetune_cli.local.child import Child
from finetune_cli.local.errors import LocalError
from finetune_cli.local.history import earlier_runs
from finetune_cli.local.machine import Machine
from finetune_cli.local.state import StateDirectory
from finetune_core.policies.revision import next_revision, reopened
from finetune_core.policies.world import world_of
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, RunId, StageRun

_SAVE_PROGRESS_SECONDS = 5.0
_GRACE_AFTER_ERROR = timedelta(seconds=30)


@dataclass(frozen=True)
class Snapshot:
    """What a view shows."""

    job: FineTuneJob
    world: World
    """What train runs on here."""
    run: ObservedRun | None
    """The run that is going on."""
    stopping: bool
    notes: tuple[str, ...]
    """What a person should know that no status says; the list only grows."""


class Executor:
    """One job on this machine. `run` carries it out; `request_stop` may be called meanwhile, from the same loop."""

    def __init__(
        self,
        state: StateDirectory,
        wanted: FineTuneJob,
        on_change: Callable[[Snapshot], None],
        *,
        machine: Machine,
        stage_command: Sequence[str] | None = None,
        fresh: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            state: The job's directory, locked by this process.
            wanted: The job as its manifest says, with addresses that do not depend on a working directory.
            on_change: Called with what a view shows, whenever that changes.
            machine: What stages may use.
            stage_command: What runs a stage; ``finetune_trainer`` unless a test says otherwise.
            fresh: Start a new revision even if the spec has not changed.
            clock: The time, with a time zone.

        Raises:
            LocalError: The trainer is not installed.
        """
        self._state = state
        self._wanted = wanted
        self._on_change = on_change
        self._machine = machine
        self._command = list(stage_command or _trainer())
        self._fresh = fresh
        self._now = clock
        self._children: dict[RunId, Child] = {}
        self._earlier: dict[RunId, ObservedRun] = {}
        self._stop_requests = 0
        self._wake = asyncio.Event()
        self._notes: list[str] = []
        self._saved: FineTuneJobStatus | None = None
        self._saved_at = float("-inf")
        world = world_of(Stage.TRAIN, wanted.spec.distributed)
        self._world = machine.fit(world, wanted.spec.training.batch_size)
        if note := machine.note(world, wanted.spec.training.batch_size):
            self._notes.append(note)
        if wanted.spec.suspend:
            self._notes.append("spec.suspend is true, so nothing is run; set it to false.")
        self._job = wanted

    def request_stop(self) -> None:
        """Stop after a checkpoint; the second time, at once."""
        self._stop_requests += 1
        if self._stop_requests > 1:
            for child in self._children.values():
                child.kill()
        self._wake.set()

    async def run(self) -> FineTuneJob:
        """Carry the job out; returns it with the status at the end, which is also stored.

        Raises:
            LocalError: The state directory fails; what ran was ended.
        """
        try:
            await self._take_up()
            while not await self._pass():
                pass
            return self._job
        finally:
            for child in self._children.values():
                if child.alive:
                    child.stop(_GRACE_AFTER_ERROR, on_request=True)
                await child.ended()

    async def _take_up(self) -> None:
        """Go on where the last executor ended, however it ended."""
        stored = self._state.load()
        status = stored.status if stored else FineTuneJobStatus()
        generation = 1
        if stored:
            generation = stored.metadata.generation + (stored.spec != self._wanted.spec)
        metadata = self._wanted.metadata.model_copy(
            update={"uid": stored.metadata.uid if stored else str(uuid4()), "generation": generation}
        )
        self._job = self._wanted.model_copy(update={"metadata": metadata, "status": status})
        loop = asyncio.get_running_loop()

        def note(sentence: str) -> None:
            loop.call_soon_threadsafe(self._note, sentence)

        self._earlier = await asyncio.to_thread(
            earlier_runs,
            self._state,
            note=note,
            hurry=lambda: self._stop_requests > 1,
        )
        if stored and not status.completion_time and spec_digest(self._wanted.spec) == status.spec_digest:
            # The executor was away: to the job that is the same as a stop on request.
            held = plan(self._job, Observed(tuple(self._earlier.values()), stop_requested=True), self._now())
            status = held.status
        self._job = self._job.model_copy(update={"status": self._reconsidered(status)})
        self._save(now=True)

    def _reconsidered(self, status: FineTuneJobStatus) -> FineTuneJobStatus:
        """What running the same command again means for a revision that has ended."""
        digest = spec_digest(self._wanted.spec)
        if status.spec_digest != digest:
            if status.revision:
                self._note(f"The spec has changed: this is revision {status.revision + 1}.")
            return status
        if self._fresh:
            return next_revision(status, digest, self._now())
        if status.artifact and _is_gone(status.artifact.uri):
            self._note(f"{status.artifact.uri} is no longer there: running again, as revision {status.revision + 1}.")
            return next_revision(status, digest, self._now())
        again = reopened(status, self._now())
        if again is not status and status.failure:
            self._note(f"The last try failed in {status.failure.stage}; trying that again.")
        elif status.completion_time:
            self._note("This spec has been run before, and this is its result; --fresh runs it again.")
        return again

    async def _pass(self) -> bool:
        """Look, plan, do, write down, wait. Returns whether that was all."""
        self._wake.clear()
        observed = self._observe()
        made = plan(self._job, observed, self._now())
        for stop in made.stop:
            self._children[stop.id].stop(stop.grace, on_request=observed.stop_requested)
        for run in made.start:
            await self._start(run)
        self._job = self._job.model_copy(update={"status": made.status})
        self._save(now=bool(made.start) or made.look_again is None)
        self._show()
        if made.start:
            return False
        if not self._alive() and (made.look_again is None):
            return True
        try:
            timeout = None if made.look_again is None else made.look_again.total_seconds()
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            pass
        return False

    def _observe(self) -> Observed:
        runs = {**self._earlier, **{id_: child.observed for id_, child in self._children.items()}}
        return Observed(tuple(runs.values()), stop_requested=self._stop_requests > 0 or self._wanted.spec.suspend)

    async def _start(self, run: StageRun) -> None:
        child = Child(run, self._state.run(run.id), self._wake.set, self._now)
        self._children[run.id] = child
        await child.start(self._command, self._machine.fit(run.world, run.spec.training.batch_size))

    def _alive(self) -> ObservedRun | None:
        return next((child.observed for child in self._children.values() if child.alive), None)

    def _note(self, sentence: str) -> None:
        self._notes.append(sentence)
        self._show()

    def _show(self) -> None:
        self._on_change(Snapshot(self._job, self._world, self._alive(), self._stop_requests > 0, tuple(self._notes)))

    def _save(self, now: bool) -> None:
        """Store the job, at once when more than progress has changed."""
        status = self._job.status.model_copy(update={"progress": None})
        time = asyncio.get_running_loop().time()
        if not now and status == self._saved and time < self._saved_at + _SAVE_PROGRESS_SECONDS:
            return
        self._state.save(self._job)
        self._saved, self._saved_at = status, time


def _trainer() -> tuple[str, ...]:
    for module in ("finetune_trainer", "torch"):
        if find_spec(module) is None:
            raise LocalError(
                "Running a job on this machine needs the trainer; install it with: pip install "
                "'finetune-operator[cli,trainer]'.",
                ExitCode.BAD_CONFIGURATION,
            )
    # -P: a file of the working directory must not take the place of a library.
    return (sys.executable, "-P", "-m", "finetune_trainer")


def _is_gone(uri: str) -> bool:
    """Whether an artifact that lay on this machine has been removed."""
    if not uri.startswith("file:///"):
        return False
    return not (Path(unquote(urlsplit(uri).path)) / MANIFEST_NAME).exists()
