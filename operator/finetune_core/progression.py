"""The progression of a revision: folds the observed runs into the status, stage by stage."""

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
from finetune_api.stage import (
    EvaluateResult,
    PrepareResult,
    Progress,
    PublishResult,
    Stage,
    StageError,
    StageReport,
    TrainResult,
)
from finetune_core.policies import failure as failures
from finetune_core.policies import pending, restart, stall, unavailable
from finetune_core.policies.revision import after_publication
from finetune_core.runs import Observed, ObservedRun, RunId, RunState
from finetune_core.sentences import clipped, sentence
from finetune_core.summaries import evaluation_status, progress_status, summary
from finetune_core.times import from_text, to_text

APPEARS_WITHIN = timedelta(seconds=30)
"""A run that was started and is not observed after this time is lost."""

_MAX_MESSAGE_LENGTH = 2000
_NOT_WAITING: dict[str, Any] = dict.fromkeys(("waiting_for", "waiting_since", "incomplete_since"))


@dataclass(frozen=True)
class _End:
    """How a run ended."""

    error: StageError
    at: str
    disrupted: bool = False


@dataclass(frozen=True)
class _Context:
    """The time, and whether the job shall be suspended."""

    now: datetime
    stop_requested: bool


@dataclass(frozen=True)
class Progression:
    """The state of a revision after the observed runs."""

    status: FineTuneJobStatus
    finished: bool = False
    """No more run is started: every stage succeeded, or one failed without another attempt."""
    expected: RunId | None = None
    """The run that is alive, or was started and is not observed yet."""
    to_stop: dict[RunId, timedelta] = field(default_factory=dict)
    """Runs to stop because they failed, with their grace periods."""
    wake_at: tuple[datetime, ...] = ()
    """Times at which the progression changes without an event."""


def advance(status: FineTuneJobStatus, spec: FineTuneJobSpec, observed: Observed, now: datetime) -> Progression:
    """The progression after the observed runs. Conditions and phase of its status are not updated yet."""
    progress = Progression(status.model_copy(update={"progress": None}))
    for name in progress.status.planned:
        stage = progress.status.stage(name)
        if stage.state is StageState.SUCCEEDED:
            continue
        if name is Stage.TRAIN and _has_weights(progress.status):
            progress = replace(progress, status=_with_earlier_weights(progress.status, stage, now))
            continue
        if stage.state is StageState.FAILED:
            return replace(progress, finished=True)
        progress = _advance_stage(progress, stage, spec, observed, now)
        stage = progress.status.stage(name)
        if stage.state is not StageState.SUCCEEDED:
            return replace(progress, finished=stage.state is StageState.FAILED)
    return replace(progress, finished=True)


def _has_weights(status: FineTuneJobStatus) -> bool:
    """Whether the weights that this revision needs are stored; prepare has checked data and model."""
    return bool(status.training and status.training.weights_digest) and status.stage(Stage.TRAIN).attempt == 0


def _with_earlier_weights(status: FineTuneJobStatus, stage: StageStatus, now: datetime) -> FineTuneJobStatus:
    assert status.training
    moment = to_text(now)
    message = f"Not trained again: the weights of revision {status.training.revision} are used"
    times = {"start_time": moment, "attempt_start_time": moment, "completion_time": moment}
    return status.with_stage(stage.model_copy(update={"state": StageState.SUCCEEDED, "message": message, **times}))


def with_next_attempt(status: FineTuneJobStatus, stage: StageStatus, now: datetime) -> FineTuneJobStatus:
    """``status`` when the next attempt of ``stage`` is started."""
    attempt = status.attempts(stage.name) + 1
    started = stage.model_copy(
        update={
            "attempt": attempt,
            "start_time": stage.start_time or to_text(now),
            "attempt_start_time": to_text(now),
            "completion_time": None,
            "incomplete_since": None,
            "retry_time": None,
            "message": _starting(attempt),
        }
    )
    return status.with_stage(started).model_copy(update={"progress": _initial_progress(started)})


def _advance_stage(
    progress: Progression, stage: StageStatus, spec: FineTuneJobSpec, observed: Observed, now: datetime
) -> Progression:
    """Record every attempt of ``stage`` that is not in the status yet, oldest first."""
    revision, earlier = progress.status.revision, progress.status.attempts_before(stage.name)
    runs = {
        run.id.attempt: run
        for run in observed.runs
        if (run.id.revision, run.id.stage) == (revision, stage.name) and run.id.attempt > earlier
    }
    if _is_active(stage) and not any(attempt >= stage.attempt for attempt in runs):
        return _without_run(progress, stage, spec, now)
    for attempt in sorted(runs):
        recorded = attempt < stage.attempt or (attempt == stage.attempt and not _is_active(stage))
        superseded = runs[attempt].alive and attempt != max(runs)
        if recorded or superseded:
            continue
        run = runs[attempt]
        stage = _with_attempt(stage, run, now)
        progress = replace(progress, status=progress.status.with_stage(stage))
        if run.alive:
            return _record_live_run(progress, stage, run, spec, now)
        progress = _record_ended_run(progress, stage, run, spec, _Context(now, observed.stops))
        stage = progress.status.stage(stage.name)
        if stage.state in (StageState.SUCCEEDED, StageState.FAILED):
            return progress
    return progress


def _is_active(stage: StageStatus) -> bool:
    """Whether the latest attempt has not ended, according to the status."""
    return stage.attempt > 0 and stage.completion_time is None


def _with_attempt(stage: StageStatus, run: ObservedRun, now: datetime) -> StageStatus:
    recorded = stage.attempt_start_time if stage.attempt == run.id.attempt else None
    # The clock of a node may differ, so only a run that needs no decision about its start has its time.
    since = recorded or to_text(now if run.state is RunState.PENDING else run.started_at or now)
    return stage.model_copy(
        update={
            "attempt": run.id.attempt,
            "start_time": stage.start_time or since,
            "attempt_start_time": since,
            "completion_time": None,
            "retry_time": None,
        }
    )


def _without_run(progress: Progression, stage: StageStatus, spec: FineTuneJobSpec, now: datetime) -> Progression:
    """The progression when the active attempt has no observed run: it does not exist yet, or no longer."""
    run = RunId(progress.status.revision, stage.name, stage.attempt)
    if stage.state is StageState.PENDING and stage.attempt_start_time:
        appears_by = from_text(stage.attempt_start_time) + APPEARS_WITHIN
        if now < appears_by:
            status = progress.status.model_copy(update={"progress": _initial_progress(stage)})
            return replace(progress, status=status, expected=run, wake_at=(*progress.wake_at, appears_by))
    error = _recorded_error(progress.status, run) or failures.lost(stage.name, stage.attempt)
    return _failed(progress, stage, _End(error, to_text(now)), spec, now)


def _record_live_run(
    progress: Progression, stage: StageStatus, run: ObservedRun, spec: FineTuneJobSpec, now: datetime
) -> Progression:
    """Record the progress of a live run, and stop the run if it stalls or stays Pending for too long."""
    running = run.state is RunState.RUNNING
    reported = run.progress
    if reported and (reported.stage, reported.attempt) != (run.id.stage, run.id.attempt):
        reported = None
    stage = _with_waiting(stage, run, now).model_copy(
        update={
            "state": StageState.RUNNING if running else StageState.PENDING,
            "message": _activity(run, reported, now),
        }
    )
    status = progress.status.with_stage(stage)
    changes: dict[str, Any] = {
        "progress": progress_status(reported) if reported and not stage.waiting_for else _initial_progress(stage)
    }
    checkpoint = reported.checkpoint if reported else None
    if checkpoint and (status.checkpoint is None or checkpoint.step >= status.checkpoint.step):
        changes["checkpoint"] = checkpoint
    status = status.model_copy(update=changes)
    progress = replace(progress, status=status, expected=run.id)
    if _recorded_error(status, run.id):
        return replace(progress, to_stop={run.id: stall.GRACE})
    due, error = _failure_of_live_run(stage, run, spec, now)
    later = [moment for moment in (due, stall.unreachable_at(run)) if moment and now < moment]
    progress = replace(progress, wake_at=(*progress.wake_at, *later))
    if due is None or now < due:
        return progress
    decision = restart.decide(error.reason, run.disrupted, stage.restarts, spec.resilience.max_restarts)
    allowed = unavailable.not_before(error, None, now)
    failure = failures.failure_status(
        run.id, error.reason, error.message, decision.retried, error=error, not_before=allowed
    )
    return replace(progress, status=status.model_copy(update={"failure": failure}), to_stop={run.id: stall.GRACE})


def _with_waiting(stage: StageStatus, run: ObservedRun, now: datetime) -> StageStatus:
    """``stage`` with what its pods wait for, and since when, by the clock of the executor."""
    cause, moment = run.pending_cause, to_text(now)
    waiting: dict[str, Any]
    if run.state is not RunState.PENDING:
        waiting = _NOT_WAITING
    elif cause is None:
        waiting = {"waiting_for": None, "incomplete_since": None}
    else:
        since = stage.waiting_since if pending.is_same_wait(stage.waiting_for, cause) else None
        waiting = {
            "waiting_for": cause.reason,
            "waiting_since": since or moment,
            "incomplete_since": (stage.incomplete_since or moment) if run.incomplete else None,
        }
    return stage.model_copy(update=waiting)


def _failure_of_live_run(
    stage: StageStatus, run: ObservedRun, spec: FineTuneJobSpec, now: datetime
) -> tuple[datetime | None, StageError]:
    """When the run has to be stopped as failed unless it changes before, and the error."""
    if run.failing and (error := failures.error_of(run)):
        return now, error
    cause = run.pending_cause
    if cause and stage.waiting_since and run.state is RunState.PENDING:
        since = from_text(stage.waiting_since)
        due = pending.times_out_at(cause, since, spec.resilience)
        releases_at = pending.releases_at(from_text(stage.incomplete_since)) if stage.incomplete_since else due
        if releases_at < due:
            return releases_at, pending.released(cause)
        return due, pending.timed_out(cause, since, now)
    return stall.stalls_at(run, spec.resilience), stall.stalled(run, spec.resilience)


def _activity(run: ObservedRun, reported: Progress | None, now: datetime) -> str:
    """What a live run does, as a sentence. The cause of a Pending run takes precedence over reported progress."""
    if run.pending_cause and run.state is RunState.PENDING:
        return run.pending_cause.message
    unreachable_at = stall.unreachable_at(run)
    if unreachable_at and now >= unreachable_at:
        return stall.unreachable(run.id.stage)
    if reported and reported.activity:
        return f"{reported.activity[:1].upper()}{reported.activity[1:]}."
    return _starting(run.id.attempt)


def _starting(attempt: int) -> str:
    return "Starting." if attempt == 1 else f"Starting attempt {attempt}."


def _initial_progress(stage: StageStatus) -> ProgressStatus:
    """The progress of a run that has not reported any."""
    waiting = f"waiting: {stage.waiting_for}" if stage.waiting_for else "starting"
    return ProgressStatus(stage=stage.name, text=f"{stage.name}: {waiting}")


def _recorded(status: FineTuneJobStatus, run: RunId) -> FailureStatus | None:
    """The failure of a run that is being stopped, if an earlier reconcile decided so."""
    failure = status.failure
    return failure if failure and (failure.stage, failure.attempt) == (run.stage, run.attempt) else None


def _recorded_error(status: FineTuneJobStatus, run: RunId) -> StageError | None:
    """Why a run is being stopped, likewise."""
    failure = _recorded(status, run)
    if failure is None:
        return None
    return StageError(
        reason=failure.reason,
        message=failure.message,
        exit_code=ExitCode.INTERNAL if failure.exit_code is None else failure.exit_code,
        rank=failure.rank,
    )


def _record_ended_run(
    progress: Progression, stage: StageStatus, run: ObservedRun, spec: FineTuneJobSpec, context: _Context
) -> Progression:
    """Record how a run ended."""
    ended_at = to_text(run.finished_at or context.now)
    report = failures.own_report(run)
    status = progress.status
    if report and report.checkpoint and (status.checkpoint is None or report.checkpoint.step >= status.checkpoint.step):
        status = status.model_copy(update={"checkpoint": report.checkpoint})
        stage = stage.model_copy(update={"unavailable_since": None})  # The storage has responded.
    error = failures.error_of(run)
    if error is None and report is not None:
        stage = stage.model_copy(
            update={
                **_NOT_WAITING,
                "state": StageState.SUCCEEDED,
                "completion_time": ended_at,
                "unavailable_since": None,
                "message": summary(report),
            }
        )
        status = _with_results(status.with_stage(stage), report).model_copy(update={"failure": None})
        return replace(progress, status=status)
    progress = replace(progress, status=status)
    recorded = _recorded_error(status, run.id)
    if recorded and recorded.reason is Reason.STALLED and run.disrupted:
        recorded = None  # The run reported nothing because its node had failed.
    if recorded is None and context.stop_requested and error and error.reason is Reason.STOPPED:
        stage = stage.model_copy(
            update={
                **_NOT_WAITING,
                "state": StageState.PENDING,
                "completion_time": ended_at,
                "message": "Stopped on request.",
            }
        )
        return replace(progress, status=status.with_stage(stage))
    cause = recorded or error or failures.lost(stage.name, stage.attempt)
    return _failed(progress, stage, _End(cause, ended_at, run.disrupted and recorded is None), spec, context.now)


def _with_results(status: FineTuneJobStatus, report: StageReport) -> FineTuneJobStatus:
    match report.result:
        case PrepareResult(inputs_digest=digest) if status.training:
            return status.model_copy(update={"training": status.training.model_copy(update={"inputs_digest": digest})})
        case TrainResult(digest=digest) if status.training:
            return status.model_copy(update={"training": status.training.model_copy(update={"weights_digest": digest})})
        case EvaluateResult(evaluation=evaluation, uri=uri):
            return status.model_copy(update={"evaluation": evaluation_status(evaluation, uri)})
        case PublishResult(uri=uri, digest=digest):
            return after_publication(status.model_copy(update={"artifact": ArtifactStatus(uri=uri, digest=digest)}))
        case _:
            return status


def _failed(progress: Progression, stage: StageStatus, end: _End, spec: FineTuneJobSpec, now: datetime) -> Progression:
    """Record a failure, and whether and when the stage is retried."""
    error = end.error
    run = RunId(progress.status.revision, stage.name, stage.attempt)
    decision = restart.decide(error.reason, end.disrupted, stage.restarts, spec.resilience.max_restarts)
    message = clipped(error.message, _MAX_MESSAGE_LENGTH)
    if decision.exhausted:
        times = f"{stage.restarts} restart{'' if stage.restarts == 1 else 's'}"
        message = f"{sentence(message)} Not retried after {times} (resilience.maxRestarts)."
    allowed = unavailable.not_before(error, _recorded(progress.status, run), now)
    if allowed:
        message = f"{sentence(message)} It is not asked again before {to_text(allowed)}."
    before = None if error.progressed else stage.unavailable_since
    since = (before or to_text(now)) if error.reason is Reason.UNAVAILABLE else None
    if since and (given_up := unavailable.why_given_up(from_text(since), allowed, spec.resilience, now)):
        decision = replace(decision, retried=False)
        message = f"{sentence(message)} {given_up}"
    restarts = stage.restarts + int(decision.counted)
    due = now + restart.delay(error.reason, stage.attempt, restarts, chance=now.microsecond / 1e6)
    stage = stage.model_copy(
        update={
            "state": StageState.PENDING if decision.retried else StageState.FAILED,
            "completion_time": end.at,
            **_NOT_WAITING,
            # A gang that has released its nodes waits on: the pending timeout covers all its attempts.
            "waiting_since": stage.waiting_since if error.reason is Reason.INCOMPLETE_GANG else None,
            "unavailable_since": since,
            "retry_time": to_text(max(due, allowed or due)) if decision.retried else None,
            "restarts": restarts,
            "message": message,
        }
    )
    failure = failures.failure_status(run, error.reason, message, decision.retried, error=error, not_before=allowed)
    return replace(progress, status=progress.status.with_stage(stage).model_copy(update={"failure": failure}))
