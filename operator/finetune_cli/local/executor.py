"""Reconciles one job on this machine until it finishes or is stopped; runs are local processes."""

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
from finetune_cli.local.child import StageProcess
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
    """The state that a view shows."""

    job: FineTuneJob
    world: World
    """The world of the train stage on this machine."""
    run: ObservedRun | None
    """The run that is alive."""
    stopping: bool
    notes: tuple[str, ...]
    """Notes that are not in the status; the list only grows."""


class Executor:
    """One job on this machine. `request_stop` may be called while `run` runs, from the same event loop."""

    def __init__(
        self,
        state: StateDirectory,
        desired: FineTuneJob,
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
            desired: The job of the manifest, with absolute URIs.
            on_change: Called with a snapshot after each change.
            machine: The hardware that stages may use.
            stage_command: The command that runs a stage; default: ``finetune_trainer``.
            fresh: Start a new revision even if the spec has not changed.
            clock: The time, with a time zone.

        Raises:
            LocalError: The trainer is not installed.
        """
        self._state = state
        self._desired = desired
        self._on_change = on_change
        self._machine = machine
        self._command = list(stage_command or _trainer())
        self._fresh = fresh
        self._now = clock
        self._children: dict[RunId, StageProcess] = {}
        self._earlier: dict[RunId, ObservedRun] = {}
        self._stop_requests = 0
        self._wake = asyncio.Event()
        self._notes: list[str] = []
        self._saved: FineTuneJobStatus | None = None
        self._saved_at = float("-inf")
        world = world_of(Stage.TRAIN, desired.spec.distributed)
        self._world = machine.fit(world, desired.spec.training.batch_size)
        if note := machine.note(world, desired.spec.training.batch_size):
            self._notes.append(note)
        if desired.spec.suspend:
            self._notes.append("spec.suspend is true, so no stage runs; set it to false.")
        self._job = desired

    def request_stop(self) -> None:
        """Stop after a checkpoint; the second time, at once."""
        self._stop_requests += 1
        if self._stop_requests > 1:
            for child in self._children.values():
                child.kill()
        self._wake.set()

    async def run(self) -> FineTuneJob:
        """Run the job; returns it with its last status, which is also saved.

        Raises:
            LocalError: The state directory cannot be read or written; running stages were stopped.
        """
        try:
            await self._restore()
            while not await self._reconcile():
                pass
            return self._job
        finally:
            for child in self._children.values():
                if child.alive:
                    child.stop(_GRACE_AFTER_ERROR, on_request=True)
                await child.ended()

    async def _restore(self) -> None:
        """Restore the job from the state directory, whether the last executor exited or was killed."""
        stored = self._state.load()
        status = stored.status if stored else FineTuneJobStatus()
        generation = 1
        if stored:
            generation = stored.metadata.generation + (stored.spec != self._desired.spec)
        metadata = self._desired.metadata.model_copy(
            update={"uid": stored.metadata.uid if stored else str(uuid4()), "generation": generation}
        )
        self._job = self._desired.model_copy(update={"metadata": metadata, "status": status})
        loop = asyncio.get_running_loop()

        def note(sentence: str) -> None:
            loop.call_soon_threadsafe(self._note, sentence)

        self._earlier = await asyncio.to_thread(
            earlier_runs,
            self._state,
            note=note,
            force=lambda: self._stop_requests > 1,
        )
        if stored and not status.completion_time and spec_digest(self._desired.spec) == status.spec_digest:
            # For the job, an executor that did not run is the same as a suspension.
            suspended = plan(self._job, Observed(tuple(self._earlier.values()), stop_requested=True), self._now())
            status = suspended.status
        self._job = self._job.model_copy(update={"status": self._rerun(status)})
        self._save(now=True)

    def _rerun(self, status: FineTuneJobStatus) -> FineTuneJobStatus:
        """The status after `finetune run` is repeated: resume, retry, or start a new revision."""
        digest = spec_digest(self._desired.spec)
        if status.spec_digest != digest:
            if status.revision:
                self._note(f"The spec has changed; starting revision {status.revision + 1}.")
            return status
        if self._fresh:
            return next_revision(status, digest, self._now())
        if status.artifact and _is_missing(status.artifact.uri):
            self._note(f"{status.artifact.uri} no longer exists; running again as revision {status.revision + 1}.")
            return next_revision(status, digest, self._now())
        retried = reopened(status, self._now())
        if retried is not status and status.failure:
            self._note(f"The last run failed in stage {status.failure.stage}; retrying that stage.")
        elif status.completion_time:
            self._note("This spec was run before; showing its result. Use --fresh to run it again.")
        return retried

    async def _reconcile(self) -> bool:
        """Observe, plan, execute, save the status, wait. Returns whether the job needs no other reconcile."""
        self._wake.clear()
        observed = self._observe()
        next_plan = plan(self._job, observed, self._now())
        for stop in next_plan.stop:
            self._children[stop.id].stop(stop.grace, on_request=observed.stop_requested)
        for run in next_plan.start:
            await self._start(run)
        self._job = self._job.model_copy(update={"status": next_plan.status})
        self._save(now=bool(next_plan.start) or next_plan.requeue_after is None)
        self._show()
        if next_plan.start:
            return False
        if not self._alive() and (next_plan.requeue_after is None):
            return True
        try:
            timeout = None if next_plan.requeue_after is None else next_plan.requeue_after.total_seconds()
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            pass
        return False

    def _observe(self) -> Observed:
        runs = {**self._earlier, **{id_: child.observed for id_, child in self._children.items()}}
        return Observed(tuple(runs.values()), stop_requested=self._stop_requests > 0 or self._desired.spec.suspend)

    async def _start(self, run: StageRun) -> None:
        child = StageProcess(run, self._state.run(run.id), self._wake.set, self._now)
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
        """Save the job; if only its progress has changed, at most every few seconds."""
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
                "finetune run needs the trainer; install it with pip install 'finetune-operator[cli,trainer]'.",
                ExitCode.BAD_CONFIGURATION,
            )
    # -P: a file in the working directory must not shadow a library.
    return (sys.executable, "-P", "-m", "finetune_trainer")


def _is_missing(uri: str) -> bool:
    """Whether an artifact on this machine was deleted."""
    if not uri.startswith("file:///"):
        return False
    return not (Path(unquote(urlsplit(uri).path)) / MANIFEST_NAME).exists()
