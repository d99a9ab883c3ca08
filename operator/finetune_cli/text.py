"""What a run shows, in words: no terminal, no time and no input, so that a test can read it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.job import FailureStatus, FineTuneJob, StageState, StageStatus
from finetune_api.spec import FineTuneJobSpec, LoraSpec
from finetune_api.stage import Stage, World
from finetune_cli.local.machine import named
from finetune_cli.view import View, clean
from finetune_core.times import duration, from_text

_EACH_PERCENT = 5
_EACH_SECONDS = 10.0
_EACH_SECONDS_LATER = 60.0
_LATER = 600.0


def heading(job: FineTuneJob, world: World) -> tuple[str, str]:
    """Which job this is, and what it does."""
    meta, spec = job.metadata, job.spec
    revision = f", revision {job.status.revision}" if job.status.revision else ""
    return (
        clean(f"{meta.namespace}/{meta.name}{revision}"),
        clean(f"{spec.model.uri}, {spec.task.type}, {_method(spec)}, {named(world)}"),
    )


def took(stage: StageStatus) -> str:
    """How long a stage took, with all its tries: ``12s``; empty when that is not known."""
    if not stage.start_time or not stage.completion_time:
        return ""
    return duration((from_text(stage.completion_time) - from_text(stage.start_time)).total_seconds())


def done_text(stage: StageStatus) -> str:
    """``done in 12s: 4,967 training … examples``."""
    tries = f", {stage.attempt} attempts" if stage.attempt > 1 else ""
    return clean(f"done in {took(stage)}{tries}: {stage.message}")


def retry_text(failure: FailureStatus) -> str:
    """Why another attempt follows."""
    return clean(f"attempt {failure.attempt} ended: {failure.message.rstrip('.')}; trying again")


@dataclass
class _Said:
    """What the last progress line said."""

    stage: Stage
    attempt: int
    activity: str
    percent: int
    at: float


class PlainLines:
    """Lines for a log: one for each change, and progress every 5 % or 10 s, after ten minutes every 60 s."""

    def __init__(self) -> None:
        self._revision = 0
        self._notes = 0
        self._states: dict[Stage, StageStatus] = {}
        self._retried: tuple[Stage, int] | None = None
        self._said: _Said | None = None
        self._holding = ""
        self._began: float | None = None

    def update(self, view: View, now: float) -> list[str]:
        """The lines that are new. ``now`` is in seconds, of any clock."""
        if self._began is None:
            self._began = now
        lines: list[str] = []
        revision = view.job.status.revision
        if revision != self._revision:
            # Of a job that is watched, the spec may change meanwhile: then all begins anew.
            self._revision, self._states, self._retried, self._said = revision, {}, None, None
            lines += heading(view.job, view.world)
        lines += [f"note: {clean(note)}" for note in view.notes[self._notes :]]
        self._notes = len(view.notes)
        lines += self._changes(view)
        if view.holding and view.holding != self._holding:
            lines.append(view.holding)
        self._holding = view.holding
        lines += self._progress(view, now)
        return lines

    def _changes(self, view: View) -> list[str]:
        lines = []
        status = view.job.status
        failure = status.failure
        if failure and failure.retried and (failure.stage, failure.attempt) != self._retried:
            self._retried = (failure.stage, failure.attempt)
            lines.append(f"{failure.stage}: {retry_text(failure)}")
        for stage in status.stages:
            before = self._states.get(stage.name)
            self._states[stage.name] = stage
            if stage.state is StageState.SUCCEEDED and (before is None or before.state is not StageState.SUCCEEDED):
                lines.append(f"{stage.name}: {done_text(stage)}")
            elif stage.attempt > (before.attempt if before else 0) and not stage.completion_time:
                lines.append(f"{stage.name}: started" + (f", attempt {stage.attempt}" if stage.attempt > 1 else ""))
        return lines

    def _progress(self, view: View, now: float) -> list[str]:
        running = view.running
        if running is None or not running.text:
            return []
        said, percent = self._said, -1 if running.percent is None else running.percent
        new = _Said(running.stage, running.attempt, running.activity, percent, now)
        same = said is not None and (said.stage, said.attempt) == (new.stage, new.attempt)
        if said is not None and same and not self._worth_saying(said, new):
            return []
        self._said = new
        return [f"{running.stage}: {running.text}"]

    def _worth_saying(self, said: _Said, new: _Said) -> bool:
        if new.percent < 0:
            return new.activity != said.activity
        if said.percent < 0 or new.percent >= said.percent + _EACH_PERCENT:
            return True
        interval = _EACH_SECONDS if new.at - (self._began or 0.0) < _LATER else _EACH_SECONDS_LATER
        return new.at - said.at >= interval and new.percent != said.percent


def _method(spec: FineTuneJobSpec) -> str:
    settings = spec.method.settings
    return f"{spec.method.type} rank {settings.rank}" if isinstance(settings, LoraSpec) else str(spec.method.type)
