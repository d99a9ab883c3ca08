"""The text of the views. Pure: no terminal, no clock, no input."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.job import FailureStatus, FineTuneJob, StageState, StageStatus
from finetune_api.spec import FineTuneJobSpec, LoraSpec, Quantization
from finetune_api.stage import Stage, World
from finetune_api.text import clean, duration
from finetune_cli.local.machine import describe_world
from finetune_cli.view import View
from finetune_core.times import from_text

_INTERVAL_PERCENT = 5
_INTERVAL_SECONDS = 10.0
_SLOW_INTERVAL_SECONDS = 60.0
_SLOW_AFTER_SECONDS = 600.0


def heading(job: FineTuneJob, world: World) -> tuple[str, str]:
    """Name and revision of the job; its model, task, method, teacher and world."""
    meta, spec = job.metadata, job.spec
    revision = f", revision {job.status.revision}" if job.status.revision else ""
    taught = f", taught by {spec.distillation.teacher.address}" if spec.distillation else ""
    return (
        clean(f"{meta.namespace}/{meta.name}{revision}"),
        clean(f"{spec.model.address}, {spec.task.type}, {method_text(spec)}{taught}, {describe_world(world)}"),
    )


def elapsed(stage: StageStatus) -> str:
    """The duration of a stage with all its attempts, without pauses of the job: ``12s``; empty if unknown."""
    if not stage.start_time or not stage.completion_time:
        return ""
    total = (from_text(stage.completion_time) - from_text(stage.start_time)).total_seconds()
    return duration(total - stage.paused_seconds)


def done_text(stage: StageStatus) -> str:
    """``done in 12s: 4,967 training … examples``."""
    attempts = f", {stage.attempt} attempts" if stage.attempt > 1 else ""
    return clean(f"done in {elapsed(stage)}{attempts}: {stage.message}")


def retry_text(failure: FailureStatus, seconds: float | None = None) -> str:
    """Why a stage is retried; ``seconds`` is the time until then, if it is known."""
    when = "" if seconds is None else f" in {duration(seconds)}"
    return clean(f"attempt {failure.attempt} ended: {failure.message.rstrip('.')}; retrying{when}")


@dataclass
class _PrintedProgress:
    """The last printed progress line."""

    stage: Stage
    attempt: int
    activity: str
    percent: int
    at: float


class PlainLines:
    """Lines for a log: one per change, and progress every 5 % or 10 s; after ten minutes every 60 s."""

    def __init__(self) -> None:
        self._revision = 0
        self._notes = 0
        self._states: dict[Stage, StageStatus] = {}
        self._retried: tuple[Stage, int] | None = None
        self._printed: _PrintedProgress | None = None
        self._suspension = ""
        self._started_at: float | None = None

    def update(self, view: View, now: float) -> list[str]:
        """The new lines. ``now`` is in seconds, from any clock."""
        if self._started_at is None:
            self._started_at = now
        lines: list[str] = []
        revision = view.job.status.revision
        if revision != self._revision:
            # The spec of a watched job may change: the lines start again with the new revision.
            self._revision, self._states, self._retried, self._printed = revision, {}, None, None
            lines += heading(view.job, view.world)
        lines += [f"note: {clean(note)}" for note in view.notes[self._notes :]]
        self._notes = len(view.notes)
        lines += self._changes(view)
        if view.suspension and view.suspension != self._suspension:
            lines.append(view.suspension)
        self._suspension = view.suspension
        lines += self._progress(view, now)
        return lines

    def _changes(self, view: View) -> list[str]:
        lines = []
        status = view.job.status
        failure = status.failure
        if failure and failure.retried and (failure.stage, failure.attempt) != self._retried:
            self._retried = (failure.stage, failure.attempt)
            seconds = view.outage.delay.total_seconds() if view.outage else None
            lines.append(f"{failure.stage}: {retry_text(failure, seconds)}")
        for stage in status.stages:
            before = self._states.get(stage.name)
            self._states[stage.name] = stage
            if stage.state is StageState.SUCCEEDED and (before is None or before.state is not StageState.SUCCEEDED):
                lines.append(f"{stage.name}: {done_text(stage)}")
            elif stage.attempt > (before.attempt if before else 0) and not stage.completion_time:
                attempt = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
                saved = status.checkpoint if stage.name is Stage.TRAIN else None
                lines.append(f"{stage.name}: started{attempt}" + (f", from step {saved.step}" if saved else ""))
        return lines

    def _progress(self, view: View, now: float) -> list[str]:
        running = view.running
        if running is None or not running.text:
            return []
        printed, percent = self._printed, -1 if running.percent is None else running.percent
        new = _PrintedProgress(running.stage, running.attempt, running.activity, percent, now)
        same = printed is not None and (printed.stage, printed.attempt) == (new.stage, new.attempt)
        if printed is not None and same and not self._is_worth_printing(printed, new):
            return []
        self._printed = new
        return [f"{running.stage}: {running.text}"]

    def _is_worth_printing(self, printed: _PrintedProgress, new: _PrintedProgress) -> bool:
        if new.percent < 0:
            return new.activity != printed.activity
        if printed.percent < 0 or new.percent >= printed.percent + _INTERVAL_PERCENT:
            return True
        interval = (
            _INTERVAL_SECONDS if new.at - (self._started_at or 0.0) < _SLOW_AFTER_SECONDS else _SLOW_INTERVAL_SECONDS
        )
        return new.at - printed.at >= interval and new.percent != printed.percent


def method_text(spec: FineTuneJobSpec) -> str:
    """The method with its main setting: ``LoRA rank 16``, or ``LoRA rank 16 on NF4``.

    Settings that a job leaves to the adapter that it continues from are not known here.
    """
    settings = spec.method.settings
    own = spec.method.type.row.settings
    if spec.model.adapter is not None and own is not None and getattr(spec.method, own.field) is None:
        settings = None
    method = f"{spec.method.type} rank {settings.rank}" if isinstance(settings, LoraSpec) else str(spec.method.type)
    if spec.model.adapter is not None:
        method += ", continued"
    quantization = spec.model.quantization
    return method if quantization is Quantization.NONE else f"{method} on {quantization}"
