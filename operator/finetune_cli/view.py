"""The data that a view shows of a job, on this machine or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.job import FineTuneJob, Phase, ProgressStatus, StageStatus
from finetune_api.stage import Progress, Stage, World
from finetune_api.text import clean, duration
from finetune_cli.local import Outage, Snapshot
from finetune_core.policies.world import world_of
from finetune_core.status import current_stage

STOPPING = "stopping{checkpoint}; press Ctrl-C again to stop at once"

_STARTING = "starting"


@dataclass(frozen=True)
class Running:
    """The running stage."""

    stage: Stage
    attempt: int
    text: str = ""
    """Activity and progress; empty if unknown."""
    activity: str = ""
    """Activity; a change is printed at once."""
    done: int | None = None
    total: int | None = None

    @property
    def percent(self) -> int | None:
        return 100 * self.done // self.total if self.done is not None and self.total else None


@dataclass(frozen=True)
class View:
    """The state of a job at one time."""

    job: FineTuneJob
    world: World
    """The world of the train stage."""
    running: Running | None
    suspension: str = ""
    """Why the job is stopping or suspended; empty otherwise."""
    notes: tuple[str, ...] = ()
    """Notes that are not in the status; the list only grows."""
    outage: Outage | None = None
    """The unreachable service that a local job waits for."""


def of_run(snapshot: Snapshot, notes: tuple[str, ...] = ()) -> View:
    """The view of a local job; ``notes`` come before those of the executor."""
    run = snapshot.run
    running = None
    if run:
        progress = run.progress
        running = Running(run.id.stage, run.id.attempt)
        if progress and progress.activity != _STARTING:
            running = Running(
                progress.stage,
                progress.attempt,
                progress_text(progress),
                progress.activity,
                done=progress.done,
                total=progress.total,
            )
    stopping = ""
    if snapshot.stopping and run and not snapshot.job.status.completion_time:
        stopping = STOPPING.format(checkpoint=" after a checkpoint" if run.id.stage is Stage.TRAIN else "")
    return View(
        snapshot.job,
        snapshot.world,
        running,
        stopping,
        (*notes, *snapshot.notes),
        snapshot.outage,
    )


def of_job(job: FineTuneJob, notes: tuple[str, ...] = ()) -> View:
    """The view of a job on a cluster, from its status."""
    world = world_of(Stage.TRAIN, job.spec)
    return View(job, world, _running(job), _suspension(job), notes)


def progress_text(progress: Progress) -> str:
    """``40/120 steps (33 %), loss 0.5124, 1,234 tokens/s, 3m20s left`` for the training; otherwise the activity and, if
    there are any, its counts.
    """
    text = progress.activity
    if progress.done is not None and progress.total:
        percent = min(100, 100 * progress.done // progress.total)
        counted = f"{progress.done:,}/{progress.total:,} {progress.unit} ({percent} %)"
        # Other stages count several things, one after the other.
        text = counted if progress.stage is Stage.TRAIN else f"{text}, {counted}"
    eta = None if progress.eta_seconds is None else duration(progress.eta_seconds)
    return _joined(text, progress.loss, progress.tokens_per_second, eta)


def status_text(progress: ProgressStatus) -> str:
    """The same for the status of a job."""
    text = progress.text.removeprefix(progress.stage).lstrip(": ")
    if progress.percent is not None:
        text += f" ({progress.percent} %)"
    return _joined(text, progress.loss, progress.tokens_per_second, progress.eta)


def _joined(what: str, loss: float | None, tokens_per_second: float | None, eta: str | None) -> str:
    parts = [what]
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
    if eta is not None:
        parts.append(f"{eta} left")
    return clean(", ".join(parts))


def _running(job: FineTuneJob) -> Running | None:
    stage = current_stage(job.status)
    if stage is None or not stage.attempt or stage.completion_time or job.status.completion_time:
        return None
    running = Running(stage.name, stage.attempt)
    if stage.waiting_for:
        text = _waiting(stage)
        return Running(stage.name, stage.attempt, text, activity=text)
    progress = job.status.progress
    if progress is None or progress.stage is not stage.name:
        return running
    percent = progress.percent
    total = None if percent is None else 100
    activity = stage.message or progress.text
    if percent is None and progress.text.endswith(f": {_STARTING}"):
        return running
    return Running(stage.name, stage.attempt, status_text(progress), activity, done=percent, total=total)


def _waiting(stage: StageStatus) -> str:
    return clean(f"waiting ({stage.waiting_for}): {stage.message}")


def _suspension(job: FineTuneJob) -> str:
    if job.status.phase not in (Phase.SUSPENDING, Phase.SUSPENDED):
        return ""
    message = next((entry.message for entry in job.status.conditions if entry.type == "Reconciling"), "")
    return clean(message or str(job.status.phase))
