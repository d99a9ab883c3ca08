"""How a revision's stages have come along: the runs that are seen, folded into the status."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import (
    ArtifactStatus,
    FailureStatus,
    FineTuneJobSpec,
    FineTuneJobStatus,
    ProgressStatus,
    StageState,
    StageStatus,
)
from finetune_api.stage import STAGES, EvaluateResult, Progress, PublishResult, StageError, StageReport
from finetune_core.policies import failure as failures
from finetune_core.policies import pending, restart, stall
from finetune_core.runs import Observed, ObservedRun, RunId, RunState
from finetune_core.sentences import clipped, sentence
from finetune_core.summaries import evaluation_status, progress_status, summary
from finetune_core.times import from_text, to_text

APPEARS_WITHIN = timedelta(seconds=30)
"""A run that was started and is not seen after so long is lost."""

_LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class _End:
    """How a run ended."""

    error: StageError
    at: str
    disrupted: bool = False


@dataclass(frozen=True)
class _Moment:
    """When, and whether the job shall hold."""

    now: datetime
    stop_requested: bool


@dataclass(frozen=True)
class Progression:
    """Where a revision stands."""

    status: FineTuneJobStatus
    over: bool = False
    """Nothing more is started: every stage succeeded, or one failed for good."""
    expected: RunId | None = None
    """The run that is going on, or was started and is not seen yet."""
    ending: dict[RunId, timedelta] = field(default_factory=dict)
    """Runs to be ended for a fault of theirs, with the time they have for it."""
    wake: tuple[datetime, ...] = ()
    """When time alone would change something."""


def advance(status: FineTuneJobStatus, spec: FineTuneJobSpec, observed: Observed, now: datetime) -> Progression:
    """The status after all that is seen, without conditions and phase, which follow from it."""
    progress = Progression(status.model_copy(update={"progress": None}))
    for name in STAGES:
        stage = progress.status.stage(name)
        if stage.state is StageState.SUCCEEDED:
            continue
        if stage.state is StageState.FAILED:
            return replace(progress, over=True)
        progress = _advance_stage(progress, stage, spec, observed, now)
        stage = progress.status.stage(name)
        if stage.state is not StageState.SUCCEEDED:
            return replace(progress, over=stage.state is StageState.FAILED)
    return replace(progress, over=True)


def ordered(status: FineTuneJobStatus, stage: StageStatus, now: datetime) -> FineTuneJobStatus:
    """``status`` as it is when the next attempt of ``stage`` is started: what a look at that run will find."""
    started = stage.model_copy(
        update={
            "attempt": stage.attempt + 1,
            "start_time": stage.start_time or to_text(now),
            "attempt_start_time": to_text(now),
            "completion_time": None,
            "message": _starting(stage.attempt + 1),
        }
    )
    return status.with_stage(started).model_copy(update={"progress": _nothing_yet(started)})


def failure_status(
    run: RunId,
    reason: Reason,
    message: str,
    retried: bool,
    error: StageError | None = None,
) -> FailureStatus:
    """A failure as status shows it."""
    return FailureStatus(
        reason=reason,
        message=message,
        stage=run.stage,
        attempt=run.attempt,
        rank=error.rank if error else None,
        exit_code=error.exit_code if error else None,
        fault=reason.row.fault,
        retried=retried,
    )


def _advance_stage(
    progress: Progression, stage: StageStatus, spec: FineTuneJobSpec, observed: Observed, now: datetime
) -> Progression:
    """Account for every attempt of ``stage`` that was not accounted for, oldest first."""
    revision = progress.status.revision
    runs = {run.id.attempt: run for run in observed.runs if (run.id.revision, run.id.stage) == (revision, stage.name)}
    if _open(stage) and not any(attempt >= stage.attempt for attempt in runs):
        return _unseen(progress, stage, spec, now)
    for attempt in sorted(runs):
        accounted = attempt < stage.attempt or (attempt == stage.attempt and not _open(stage))
        superseded = runs[attempt].alive and attempt != max(runs)
        if accounted or superseded:
            continue
        run = runs[attempt]
        stage = _opened(stage, run, now)
        progress = replace(progress, status=progress.status.with_stage(stage))
        if run.alive:
            return _watch(progress, stage, run, spec, now)
        progress = _account(progress, stage, run, spec, _Moment(now, observed.stop_requested))
        stage = progress.status.stage(stage.name)
        if stage.state in (StageState.SUCCEEDED, StageState.FAILED):
            return progress
    return progress


def _open(stage: StageStatus) -> bool:
    """Whether the newest attempt has not ended, as far as is recorded."""
    return stage.attempt > 0 and stage.completion_time is None


def _opened(stage: StageStatus, run: ObservedRun, now: datetime) -> StageStatus:
    known = stage.attempt_start_time if stage.attempt == run.id.attempt else None
    since = known or to_text(run.started_at or now)
    return stage.model_copy(
        update={
            "attempt": run.id.attempt,
            "start_time": stage.start_time or since,
            "attempt_start_time": since,
            "completion_time": None,
            "waiting_for": None,
        }
    )


def _unseen(progress: Progression, stage: StageStatus, spec: FineTuneJobSpec, now: datetime) -> Progression:
    """A run was started and is not there: not yet, or no longer."""
    run = RunId(progress.status.revision, stage.name, stage.attempt)
    if stage.state is StageState.PENDING and stage.attempt_start_time:
        appears_by = from_text(stage.attempt_start_time) + APPEARS_WITHIN
        if now < appears_by:
            awaited = progress.status.model_copy(update={"progress": _nothing_yet(stage)})
            return replace(progress, status=awaited, expected=run, wake=(*progress.wake, appears_by))
    error = _verdict(progress.status, run) or failures.lost(stage.name, stage.attempt)
    return _failed(progress, stage, _End(error, to_text(now)), spec)


def _watch(
    progress: Progression, stage: StageStatus, run: ObservedRun, spec: FineTuneJobSpec, now: datetime
) -> Progression:
    """Record what a live run says, and end it when it hangs."""
    running = run.state is RunState.RUNNING
    said = run.progress
    if said and (said.stage, said.attempt) != (run.id.stage, run.id.attempt):
        said = None
    stage = stage.model_copy(
        update={
            "state": StageState.RUNNING if running else StageState.PENDING,
            "waiting_for": run.trouble.reason if run.trouble and not running else None,
            "message": _doing(run, said),
        }
    )
    status = progress.status.with_stage(stage)
    changes: dict[str, Any] = {
        "progress": progress_status(said) if said and not stage.waiting_for else _nothing_yet(stage)
    }
    if said and said.checkpoint and (status.checkpoint is None or said.checkpoint.step >= status.checkpoint.step):
        changes["checkpoint"] = said.checkpoint
    status = status.model_copy(update=changes)
    progress = replace(progress, status=status, expected=run.id)
    if _verdict(status, run.id):
        return replace(progress, ending={run.id: stall.GRACE})
    if stage.waiting_for and run.trouble:
        due: datetime | None = pending.gives_up_at(run.trouble, spec.resilience)
        error = pending.given_up(run.trouble, now)
    else:
        due, error = stall.stalls_at(run, spec.resilience), stall.stalled(run, spec.resilience)
    if due is None:
        return progress
    if now < due:
        return replace(progress, wake=(*progress.wake, due))
    decision = restart.decide(error.reason, run.disrupted, stage.restarts, spec.resilience.max_restarts)
    failure = failure_status(run.id, error.reason, error.message, decision.retried, error)
    return replace(progress, status=status.model_copy(update={"failure": failure}), ending={run.id: stall.GRACE})


def _doing(run: ObservedRun, said: Progress | None) -> str:
    """What a live run is doing, as a sentence; what keeps it from that, whatever a part of it says, or said before."""
    if run.trouble and run.state is RunState.PENDING:
        return run.trouble.message
    if said and said.activity:
        return f"{said.activity[:1].upper()}{said.activity[1:]}."
    return _starting(run.id.attempt)


def _starting(attempt: int) -> str:
    return "Starting." if attempt == 1 else f"Starting attempt {attempt}."


def _nothing_yet(stage: StageStatus) -> ProgressStatus:
    """The progress of a run that has told none."""
    waits = f"waiting: {stage.waiting_for}" if stage.waiting_for else "starting"
    return ProgressStatus(stage=stage.name, text=f"{stage.name}: {waits}")


def _verdict(status: FineTuneJobStatus, run: RunId) -> StageError | None:
    """Why a run is being ended, when that was decided before its end."""
    failure = status.failure
    if failure is None or (failure.stage, failure.attempt) != (run.stage, run.attempt):
        return None
    return StageError(
        reason=failure.reason,
        message=failure.message,
        exit_code=ExitCode.INTERNAL if failure.exit_code is None else failure.exit_code,
        rank=failure.rank,
    )


def _account(
    progress: Progression, stage: StageStatus, run: ObservedRun, spec: FineTuneJobSpec, moment: _Moment
) -> Progression:
    """Record how a run ended."""
    ended_at = to_text(run.finished_at or moment.now)
    report = failures.own_report(run)
    status = progress.status
    if report and report.checkpoint and (status.checkpoint is None or report.checkpoint.step >= status.checkpoint.step):
        status = status.model_copy(update={"checkpoint": report.checkpoint})
    error = failures.error_of(run)
    if error is None and report is not None:
        stage = stage.model_copy(
            update={"state": StageState.SUCCEEDED, "completion_time": ended_at, "message": summary(report)}
        )
        results = _results(report)
        return replace(progress, status=status.with_stage(stage).model_copy(update={"failure": None, **results}))
    progress = replace(progress, status=status)
    verdict = _verdict(status, run.id)
    if verdict and verdict.reason is Reason.STALLED and run.disrupted:
        verdict = None  # It was silent because its node was gone.
    if verdict is None and moment.stop_requested and error and error.reason is Reason.STOPPED:
        stage = stage.model_copy(
            update={"state": StageState.PENDING, "completion_time": ended_at, "message": "Stopped on request."}
        )
        return replace(progress, status=status.with_stage(stage))
    cause = verdict or error or failures.lost(stage.name, stage.attempt)
    return _failed(progress, stage, _End(cause, ended_at, run.disrupted and verdict is None), spec)


def _results(report: StageReport) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if isinstance(report.result, EvaluateResult):
        results["evaluation"] = evaluation_status(report.result.evaluation)
    if isinstance(report.result, PublishResult):
        results["artifact"] = ArtifactStatus(uri=report.result.uri, digest=report.result.digest)
    return results


def _failed(progress: Progression, stage: StageStatus, end: _End, spec: FineTuneJobSpec) -> Progression:
    """Record a failure and what follows from it."""
    error = end.error
    run = RunId(progress.status.revision, stage.name, stage.attempt)
    decision = restart.decide(error.reason, end.disrupted, stage.restarts, spec.resilience.max_restarts)
    message = clipped(error.message, _LONGEST_MESSAGE)
    if decision.exhausted:
        times = f"{stage.restarts} restart{'' if stage.restarts == 1 else 's'}"
        message = f"{sentence(message)} Given up after {times} (resilience.maxRestarts)."
    stage = stage.model_copy(
        update={
            "state": StageState.PENDING if decision.retried else StageState.FAILED,
            "completion_time": end.at,
            "restarts": stage.restarts + int(decision.counted),
            "message": message,
        }
    )
    failure = failure_status(run, error.reason, message, decision.retried, error)
    return replace(progress, status=progress.status.with_stage(stage).model_copy(update={"failure": failure}))
