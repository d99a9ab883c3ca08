"""Runs of stages: what the plan asks for, and what an executor sees of it.

A run is one attempt of one stage of one revision. Its identity decides its name, so an executor cannot start one twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import JobIdentity, Progress, Stage, StageConfig, StageError, StageReport, World


class RunId(NamedTuple):
    """Identity of a run."""

    revision: int
    stage: Stage
    attempt: int


class RunState(StrEnum):
    """Where a run is. A run that was started and does not compute yet, such as an unschedulable pod, is Pending."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class Trouble:
    """Why a run that was started does not compute yet. It may pass by itself."""

    reason: Reason
    message: str
    """One sentence: what is in the way, and what to do."""
    since: datetime


@dataclass(frozen=True)
class Heard:
    """What a run that computes has said of itself."""

    progress: Progress | None = None
    """Its last answer."""
    asked_since: datetime | None = None
    """Since when it is asked without a break; None while nobody asks."""


@dataclass(frozen=True)
class ObservedRun:
    """What an executor knows about a run that exists."""

    id: RunId
    state: RunState
    spec_digest: str = ""
    """Digest of the spec it was started for; empty when that is not known, and then it is taken to fit."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    report: StageReport | None = None
    """The termination message; None until the end, or when there was none that can be read."""
    progress: Progress | None = None
    """The last answer of ``/progress``."""
    asked_since: datetime | None = None
    """Since when it is asked for that without a break; None while nobody asks."""
    disrupted: bool = False
    """Ended by what runs it and not by its own doing: preemption, a drained node, the end of the local executor."""
    error: StageError | None = None
    """What the executor knows of a failure that the stage could not tell itself, such as OOMKilled."""

    trouble: Trouble | None = None
    """What keeps a Pending run from computing, if that is known."""

    @property
    def alive(self) -> bool:
        return self.state in (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True)
class Observed:
    """All runs of a job that exist.

    It must be true, though it may be late to show a run that was just started: a run that was seen once and is not
    there is taken for lost.
    """

    runs: tuple[ObservedRun, ...] = ()
    stop_requested: bool = False
    """Somebody wants the job to hold; it goes on when this is False again."""


@dataclass(frozen=True)
class StageRun:
    """A run to start."""

    id: RunId
    job: JobIdentity
    world: World
    spec: FineTuneJobSpec

    def config(self, **places: Any) -> StageConfig:
        """``stage.json`` of this run; ``places`` are the fields that only the executor knows: paths, ports."""
        return StageConfig(
            **{
                "job": self.job,
                "stage": self.id.stage,
                "attempt": self.id.attempt,
                "spec": self.spec,
                "world": self.world,
                **places,
            }
        )


@dataclass(frozen=True)
class StopRun:
    """A run to stop: asked to, so that it can write a checkpoint, and killed after ``grace``."""

    id: RunId
    grace: timedelta


@dataclass(frozen=True)
class Plan:
    """What shall happen now.

    An executor stops, then starts, then writes the status: a crash in between is put right by the next pass.
    """

    start: tuple[StageRun, ...]
    stop: tuple[StopRun, ...]
    status: FineTuneJobStatus
    look_again: timedelta | None
    """When to plan again even if nothing is seen to happen; None when only an event can change anything."""
