"""Prepares the data of a job in a scratch directory, for the commands that store nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from finetune_api.digests import spec_digest, training_digest
from finetune_api.job import FineTuneJob, FineTuneJobStatus, TrainingStatus
from finetune_api.stage import JobIdentity, Stage, StageReport, World
from finetune_cli.local import Machine, Snapshot
from finetune_cli.local.child import StageProcess
from finetune_cli.local.state import RunDirectory
from finetune_cli.local.trainer import trainer_command
from finetune_cli.output import Output, out
from finetune_cli.screen import screen
from finetune_cli.view import of_run
from finetune_core.policies.previous import previous_of
from finetune_core.policies.revision import current_revision
from finetune_core.policies.world import world_of
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, RunId, StageRun

_GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class Prepared:
    """How the prepare stage ended."""

    report: StageReport | None
    """None if it crashed."""
    stopped: bool
    """Whether a signal has stopped it."""
    last_line: str
    """The last line of its log."""


def prepare_in(
    scratch: Path,
    job: FineTuneJob,
    stored: FineTuneJobStatus,
    machine: Machine,
    *,
    output: Output,
    note: str,
    world: World | None = None,
) -> Prepared:
    """Run the prepare stage of a job; its result and its log are below ``scratch``.

    Args:
        scratch: An existing directory.
        job: The job of the manifest.
        stored: The status of the job on this machine; the default if it did not run here.
        machine: The hardware of this machine.
        output: Text shows the stage on standard output, JSON on standard error if that is a terminal.
        note: A note that is shown with the stage.
        world: The processes of the training, which are shown with the job; default: those of this machine.

    Raises:
        LocalError: The trainer is not installed, or ``scratch`` is not writable.
    """
    status = current_revision(job.spec, stored, Observed(), datetime.now(UTC))
    directory = RunDirectory(RunId(status.revision, Stage.PREPARE, 1), scratch / "run")
    run = stage_run(job, status, (scratch / "output").as_uri())
    shown = world or machine.fit(world_of(Stage.TRAIN, job.spec), job.spec.training.batch_size)
    report, stopped = asyncio.run(_prepare(job, run, directory, machine, output=output, note=note, world=shown))
    return Prepared(report, stopped, directory.last_log_line())


async def _prepare(
    job: FineTuneJob,
    run: StageRun,
    directory: RunDirectory,
    machine: Machine,
    *,
    output: Output,
    note: str,
    world: World,
) -> tuple[StageReport | None, bool]:
    """The report of the stage, and whether a signal has stopped it."""
    changed = asyncio.Event()
    revision = directory.id.revision
    child = StageProcess(run, directory, changed.set, lambda: datetime.now(UTC))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        child.stop(_GRACE, on_request=True)

    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)
        training = TrainingStatus(revision=revision, spec_digest=training_digest(job.spec))
        status = FineTuneJobStatus(revision=revision, spec_digest=spec_digest(job.spec), training=training)
        planned = plan(job.model_copy(update={"status": status}), Observed(), datetime.now(UTC))
        started = job.model_copy(update={"status": planned.status})
        await child.start(trainer_command("finetune run"), machine.fit(run.world, job.spec.training.batch_size))
        while child.alive:
            observed = child.observed
            status = plan(started, Observed((observed,)), datetime.now(UTC)).status
            job_now = started.model_copy(update={"status": status})
            shown.show(of_run(Snapshot(job_now, world, observed, stopped, (note,) if note else ())))
            await changed.wait()
            changed.clear()
        await child.ended()
    return directory.report(), stopped


def stage_run(job: FineTuneJob, status: FineTuneJobStatus, output: str) -> StageRun:
    """Prepare of the revision that ``status`` begins, with another output. It asks no endpoint."""
    revision = status.revision
    spec = job.spec.model_copy(update={"output": job.spec.output.model_copy(update={"uri": output})})
    identity = JobIdentity(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid="dry-run",
        revision=revision,
        spec_digest=spec_digest(spec),
        training_revision=revision,
        training_digest=training_digest(spec),
    )
    world = world_of(Stage.PREPARE, spec)
    previous = previous_of(job.spec, status)
    return StageRun(RunId(revision, Stage.PREPARE, 1), identity, world, spec, previous, dry_run=True)
