"""What a view shows of a job, whether it runs on this machine or on a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune_api.job import FineTuneJob, Phase, ProgressStatus, StageStatus
from finetune_api.stage import Progress, Stage, World
from finetune_cli.local import Snapshot
from finetune_core.policies.world import world_of
from finetune_core.status import current_stage
from finetune_core.times import duration

STOPPING = "stopping as soon as a checkpoint is written; Ctrl-C again stops at once"

_NOTHING_YET = "starting"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """``text`` on one line and without control characters: it may come from data or from a model."""
    return _CONTROL.sub(" ", text).strip()


@dataclass(frozen=True)
class Running:
    """The stage that is going on."""

    stage: Stage
    attempt: int
    text: str = ""
    """What it does and how far it is; empty when nothing is known yet."""
    activity: str = ""
    """What it does: a change of this is said at once."""
    done: int | None = None
    total: int | None = None

    @property
    def percent(self) -> int | None:
        return 100 * self.done // self.total if self.done is not None and self.total else None


@dataclass(frozen=True)
class View:
    """One moment of a job."""

    job: FineTuneJob
    world: World
    """What train runs on."""
    running: Running | None
    holding: str = ""
    """Why it is about to stop, or holds; empty when it goes on."""
    notes: tuple[str, ...] = ()
    """What a person should know that no status says; the list only grows."""


def of_run(snapshot: Snapshot, notes: tuple[str, ...] = ()) -> View:
    """The view of a job that runs on this machine; ``notes`` stand before those of the executor."""
    run = snapshot.run
    running = None
    if run:
        said = run.progress
        running = Running(run.id.stage, run.id.attempt)
        if said and said.activity != _NOTHING_YET:
            running = Running(
                said.stage, said.attempt, progress_text(said), said.activity, done=said.done, total=said.total
            )
    stopping = snapshot.stopping and run is not None and not snapshot.job.status.completion_time
    return View(snapshot.job, snapshot.world, running, STOPPING if stopping else "", (*notes, *snapshot.notes))


def of_job(job: FineTuneJob, notes: tuple[str, ...] = ()) -> View:
    """The view of a job on a cluster: all of it comes from its status."""
    world = world_of(Stage.TRAIN, job.spec.distributed)
    return View(job, world, _running(job), _holding(job), notes)


def progress_text(progress: Progress) -> str:
    """``40/120 steps (33 %), loss 0.5124, 1,234 tokens/s, 3m20s left``; what it does, while nothing is counted."""
    counted = None
    if progress.done is not None and progress.total:
        percent = min(100, 100 * progress.done // progress.total)
        counted = f"{progress.done:,}/{progress.total:,} {progress.unit} ({percent} %)"
    eta = None if progress.eta_seconds is None else duration(progress.eta_seconds)
    return _told(counted or progress.activity, progress.loss, progress.tokens_per_second, eta)


def status_text(progress: ProgressStatus) -> str:
    """The same from the status of a job."""
    text = progress.text.removeprefix(progress.stage).lstrip(": ")
    if progress.percent is not None:
        text += f" ({progress.percent} %)"
    return _told(text, progress.loss, progress.tokens_per_second, progress.eta)


def _told(what: str, loss: float | None, tokens_per_second: float | None, eta: str | None) -> str:
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
        text = _waits(stage)
        return Running(stage.name, stage.attempt, text, activity=text)
    said = job.status.progress
    if said is None or said.stage is not stage.name:
        return running
    percent = said.percent
    total = None if percent is None else 100
    activity = stage.message or said.text
    if percent is None and said.text.endswith(f": {_NOTHING_YET}"):
        return running
    return Running(stage.name, stage.attempt, status_text(said), activity, done=percent, total=total)


def _waits(stage: StageStatus) -> str:
    return clean(f"waits ({stage.waiting_for}): {stage.message}")


def _holding(job: FineTuneJob) -> str:
    if job.status.phase not in (Phase.SUSPENDING, Phase.SUSPENDED):
        return ""
    told = next((entry.message for entry in job.status.conditions if entry.type == "Reconciling"), "")
    return clean(f"{job.status.phase}: {told}" if told else str(job.status.phase))
