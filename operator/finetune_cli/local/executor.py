"""Reconciles one job on this machine until it finishes or is stopped; runs are local processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.manifest import MANIFEST_NAME
from finetune_api.stage import Stage, World
from finetune_cli.local import inputs
from finetune_cli.local.child import StageProcess
from finetune_cli.local.errors import cannot_write
from finetune_cli.local.history import earlier_runs
from finetune_cli.local.machine import Machine
from finetune_cli.local.outage import Outage, next_status, outage_after, retried_now
from finetune_cli.local.state import StateDirectory
from finetune_cli.local.trainer import trainer_command
from finetune_core.policies.revision import current_revision, evaluated_again, reopened, trained_again
from finetune_core.policies.world import world_of
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, RunId, StageRun
from finetune_core.sentences import sentence
from finetune_core.summaries import revision_change
from finetune_core.times import to_text

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
    outage: Outage | None = None
    """The unreachable service that the job waits for."""


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
        self._command = list(stage_command or trainer_command("finetune run"))
        self._fresh = fresh
        self._now = clock
        self._children: dict[RunId, StageProcess] = {}
        self._earlier: dict[RunId, ObservedRun] = {}
        self._stop_requested = False
        self._kill = False
        self._wake = asyncio.Event()
        self._notes: list[str] = []
        self._files: tuple[inputs.Stamp, ...] | None = None
        """The input files as they were before prepare started."""
        self._digests: inputs.Digests | None = None
        """The inputs as they are now, if they were read."""
        self._outage: Outage | None = None
        self._saved: FineTuneJobStatus | None = None
        self._saved_at = float("-inf")
        world = world_of(Stage.TRAIN, desired.spec)
        self._world = machine.fit(world, desired.spec.training.batch_size)
        if note := machine.note(world, desired.spec.training.batch_size):
            self._notes.append(note)
        if desired.spec.suspend:
            self._notes.append("spec.suspend is true, so no stage runs; set it to false.")
        self._job = desired

    def request_stop(self, *, at_once: bool = False) -> None:
        """Stop after a checkpoint, or at once."""
        self._stop_requested = True
        if at_once:
            self._kill = True
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
        # The status of an earlier revision is not shown: its lines would look like those of this run.
        self._job = self._desired.model_copy(update={"metadata": metadata})
        loop = asyncio.get_running_loop()

        def note(sentence: str) -> None:
            loop.call_soon_threadsafe(self._note, sentence)

        self._earlier = await asyncio.to_thread(
            earlier_runs,
            self._state,
            note=note,
            force=lambda: self._kill,
        )
        before, status = status, await self._with_current_inputs(status)
        if before.revision and status.revision == before.revision and not status.completion_time:
            # For the job, an executor that did not run is the same as a suspension, also after a crash.
            since = status.suspend_time or to_text(self._state.last_change())
            job = self._job.model_copy(update={"status": status.model_copy(update={"suspend_time": since})})
            suspended = plan(job, Observed(tuple(self._earlier.values()), stop_requested=True), self._now())
            status = suspended.status
        self._job = self._job.model_copy(update={"status": self._rerun(status)})
        self._save(now=True)

    async def _with_current_inputs(self, stored: FineTuneJobStatus) -> FineTuneJobStatus:
        """The status of the revision for the spec and, if its data was prepared before, for the data as it is now."""
        spec, now = self._desired.spec, self._now()
        status = current_revision(spec, stored, Observed(tuple(self._earlier.values())), now)
        if stored.revision and status.revision != stored.revision:
            self._note(revision_change(stored, status))
        if self._fresh:
            return trained_again(stored, spec, now)
        again = trained_again
        problem = await self._changed_inputs(status)
        if problem is None and status.artifact and _is_missing(status.artifact.uri):
            problem = f"{status.artifact.uri} no longer exists"
        if problem is None and self._changed_harness(status):
            again = evaluated_again
            problem = f"The task files have changed since revision {status.revision} was evaluated with them"
        if problem is None:
            return status
        following = again(stored, spec, now)
        self._note(f"{problem}; starting revision {following.revision}.")
        return following

    async def _changed_inputs(self, status: FineTuneJobStatus) -> str | None:
        """What has changed since the data of a revision was prepared; None if nothing has, or it was not prepared."""
        training = status.training
        if training is None or not training.inputs_digest:
            return None
        found = inputs.stamps(self._desired.spec)
        known = inputs.recorded(self._state)
        if known and known.digest == training.inputs_digest and known.files == found:
            return None
        runs = [run for run in self._state.runs() if run.id.stage is Stage.PREPARE]
        prepared = [run for run in runs if run.id.revision in (training.revision, status.revision)]
        if not prepared:
            return None
        try:
            self._digests = await inputs.current_digests(self._command, prepared[-1].config)
        except inputs.UnknownInputs as error:
            self._note(f"Cannot check whether the data has changed: {error}")
            return None
        if self._digests.inputs != training.inputs_digest:
            spec = self._desired.spec
            others = (", the adapter" if spec.model.adapter else "") + (", the teacher" if spec.distillation else "")
            return f"The data{others} or the base model has changed since revision {training.revision} prepared it"
        if not self._changed_harness(status):
            self._record_inputs(self._digests.inputs, found)
        return None

    def _changed_harness(self, status: FineTuneJobStatus) -> bool:
        """Whether the files of evaluation.harnessPath have changed since a revision was evaluated."""
        known = status.evaluation and status.evaluation.harness_digest
        return bool(known and self._digests and self._digests.harness not in (None, known))

    def _record_inputs(self, digest: str, files: tuple[inputs.Stamp, ...] | None) -> None:
        try:
            inputs.record(self._state, digest, files)
        except OSError as error:
            raise cannot_write(self._state.path, error) from error

    def _rerun(self, status: FineTuneJobStatus) -> FineTuneJobStatus:
        """The status after `finetune run` is repeated: resume, retry, or show the result."""
        retried = reopened(status, self._now())
        if retried is not status and status.failure:
            self._note(f"The last run failed in stage {status.failure.stage}; retrying that stage.")
        elif status.completion_time:
            self._note("This spec was run before; showing its result. Use --fresh to run it again.")
        return retried_now(retried)

    async def _reconcile(self) -> bool:
        """Observe, plan, execute, save the status, wait. Returns whether the job needs no other reconcile."""
        self._wake.clear()
        observed = self._observe()
        if not self._stop_requested:
            status = next_status(self._job.status, self._outage, self._now())
            self._job = self._job.model_copy(update={"status": status})
        next_plan = plan(self._job, observed, self._now())
        for stop in next_plan.stop:
            self._children[stop.id].stop(stop.grace, on_request=observed.stop_requested)
        for run in next_plan.start:
            await self._start(run)
        before = self._job.status.training
        self._note_next_revision(next_plan.status, observed)
        self._job = self._job.model_copy(update={"status": next_plan.status})
        training = next_plan.status.training
        if training and training.inputs_digest and (before is None or before.inputs_digest != training.inputs_digest):
            self._record_inputs(training.inputs_digest, self._files)
        self._outage = outage_after(next_plan.status, self._outage)
        self._save(now=bool(next_plan.start) or next_plan.requeue_after is None)
        self._show()
        if next_plan.start:
            return False
        if not self._alive() and (next_plan.requeue_after is None):
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._seconds_until(next_plan.requeue_after))
        return False

    def _note_next_revision(self, status: FineTuneJobStatus, observed: Observed) -> None:
        """Say why ``status`` is that of another revision, if a stage has found its place or its inputs changed."""
        number = self._job.status.revision
        if not number or status.revision == number:
            return
        taken = (
            run.report.error.message
            for run in observed.runs
            if run.id.revision == number and run.report and run.report.error
            if run.report.error.reason is Reason.REVISION_TAKEN
        )
        why = next(taken, f"The inputs of revision {number} have changed")
        self._note(f"{sentence(why)} Starting revision {status.revision}.")

    def _seconds_until(self, requeue_after: timedelta | None) -> float | None:
        """Seconds until the next reconcile; None if only an event causes one."""
        waits = [] if requeue_after is None else [requeue_after.total_seconds()]
        if self._outage and not self._alive() and not self._stop_requested:
            waits.append(0 if self._outage.ends else (self._outage.retry_at - self._now()).total_seconds())
        return max(min(waits), 0) if waits else None

    def _observe(self) -> Observed:
        runs = {**self._earlier, **{id_: child.observed for id_, child in self._children.items()}}
        return Observed(tuple(runs.values()), stop_requested=self._stop_requested or self._desired.spec.suspend)

    async def _start(self, run: StageRun) -> None:
        child = StageProcess(run, self._state.run(run.id), self._wake.set, self._now)
        self._children[run.id] = child
        if run.id.stage is Stage.PREPARE:
            self._files = inputs.stamps(run.spec)
        await child.start(self._command, self._machine.fit(run.world, run.spec.training.batch_size))

    def _alive(self) -> ObservedRun | None:
        return next((child.observed for child in self._children.values() if child.alive), None)

    def _note(self, sentence: str) -> None:
        self._notes.append(sentence)
        self._show()

    def _show(self) -> None:
        alive, failure = self._alive(), self._job.status.failure
        if self._outage and self._outage.ends and failure and failure.retried and alive is None:
            return  # The next status says that no other attempt follows.
        waits = self._outage and not self._outage.ends and alive is None
        self._on_change(
            Snapshot(
                self._job,
                self._world,
                alive,
                self._stop_requested,
                tuple(self._notes),
                self._outage if waits else None,
            )
        )

    def _save(self, now: bool) -> None:
        """Save the job; if only its progress has changed, at most every few seconds."""
        status = self._job.status.model_copy(update={"progress": None})
        time = asyncio.get_running_loop().time()
        if not now and status == self._saved and time < self._saved_at + _SAVE_PROGRESS_SECONDS:
            return
        self._state.save(self._job)
        self._saved, self._saved_at = status, time


def _is_missing(uri: str) -> bool:
    """Whether an artifact on this machine was deleted."""
    if not uri.startswith("file:///"):
        return False
    return not (Path(unquote(urlsplit(uri).path)) / MANIFEST_NAME).exists()
