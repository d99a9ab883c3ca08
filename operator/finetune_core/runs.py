"""Runs of stages: what the plan starts and stops, and what an executor observes.

A run is one attempt of one stage of one revision. Its identity determines its name, so an executor cannot start a run
twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import (
    JobIdentity,
    PreviousRevision,
    Progress,
    Stage,
    StageConfig,
    StageError,
    StageReport,
    World,
)


class RunId(NamedTuple):
    """Identity of a run."""

    revision: int
    stage: Stage
    attempt: int


class RunState(StrEnum):
    """State of a run. A run is Pending until all its workers run; for example, while a pod is unschedulable."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class PendingCause:
    """Why a run is Pending. The cause may resolve without intervention."""

    reason: Reason
    message: str
    """One sentence: what blocks the run, and what to do."""
    hopeless: bool = False
    """Waiting cannot help."""


@dataclass(frozen=True)
class PolledProgress:
    """What polling ``/progress`` of a run has returned."""

    progress: Progress | None = None
    """The latest valid response."""
    silent_since: datetime | None = None
    """When the executor last received other progress than before, or began to poll; None if the run is not polled."""
    answers: bool = True
    """Whether there was a response to the latest request."""


@dataclass(frozen=True)
class ObservedRun:
    """The observed state of one run."""

    id: RunId
    state: RunState
    spec_digest: str = ""
    """Digest of the spec that the run was started for; empty if unknown, which matches every spec."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    report: StageReport | None = None
    """The termination message; None before the run ends, and if there is no valid one."""
    progress: Progress | None = None
    """The latest response of ``/progress``."""
    silent_since: datetime | None = None
    """When the executor last received other progress than before, or began to poll; None if the run is not polled."""
    answers: bool = True
    """Whether there was a response to the latest request for progress."""
    ready: bool | None = None
    """Whether the readiness probe of rank 0's worker passes; None if the executor has no such probe."""
    disrupted: bool = False
    """Ended by its environment: preemption, a node drain, the exit of the local executor."""
    error: StageError | None = None
    """A failure that only the executor can observe, such as OOMKilled."""
    failing: bool = False
    """A worker has failed, as ``exit_code``, ``report`` and ``error`` say, but the others do not end by themselves."""
    pending_cause: PendingCause | None = None
    """Why the run is Pending, if that is known."""
    incomplete: bool = False
    """Some workers hold nodes or quota, and wait for others that do not get any."""

    @property
    def alive(self) -> bool:
        return self.state in (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True)
class Refusal:
    """Why the executor does not run a job. It may resolve without a change of the job."""

    reason: Reason
    message: str
    """Sentences: what is not allowed, and what to do."""


@dataclass(frozen=True)
class Observed:
    """All runs of a job that exist.

    A run that was just started may be missing. A run that was observed before and is missing now counts as lost.
    """

    runs: tuple[ObservedRun, ...] = ()
    stop_requested: bool = False
    """The job shall be suspended; it resumes when this is False again."""
    refusal: Refusal | None = None
    """Its runs are stopped as if it was suspended; it goes on when this is None again."""

    @property
    def stops(self) -> bool:
        """Whether the job must have no runs for now."""
        return self.stop_requested or self.refusal is not None


@dataclass(frozen=True)
class StageRun:
    """A run to start."""

    id: RunId
    job: JobIdentity
    world: World
    spec: FineTuneJobSpec
    previous: PreviousRevision | None = None
    """The revision that the job is measured against, if it is an earlier one."""
    dry_run: bool = False
    """See `StageConfig.dry_run`."""

    @property
    def runs_code(self) -> bool:
        """Whether the stage runs generated programs: prepare and respond check the references, evaluate the answers,
        and so does a train stage that measures answers and trains nothing."""
        measures = () if self.spec.method.type.row.trains else (Stage.TRAIN,)
        runs = (Stage.PREPARE, Stage.RESPOND, Stage.EVALUATE, *measures)
        return self.spec.evaluation.allow_code_execution and self.id.stage in runs

    def config(self, **local: Any) -> StageConfig:
        """``stage.json`` of this run; ``local`` has the fields that the executor decides: paths and ports."""
        return StageConfig(
            **{
                "job": self.job,
                "stage": self.id.stage,
                "attempt": self.id.attempt,
                "spec": self.spec,
                "world": self.world,
                "previous": self.previous,
                "dry_run": self.dry_run,
                **local,
            }
        )


@dataclass(frozen=True)
class StopRun:
    """A run to stop: SIGTERM, so that it can write a checkpoint, and SIGKILL after ``grace``."""

    id: RunId
    grace: timedelta


@dataclass(frozen=True)
class Plan:
    """The actions of one reconcile.

    An executor stops runs, then starts runs, then writes the status. After a crash in between, the next reconcile
    continues.
    """

    start: tuple[StageRun, ...]
    stop: tuple[StopRun, ...]
    status: FineTuneJobStatus
    requeue_after: timedelta | None
    """When to reconcile again without an event; None if only an event can change the plan."""
