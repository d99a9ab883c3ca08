"""The plan of one reconcile: from the spec, the status, the observed runs and the time.

Pure and level-triggered. Earlier decisions are in the status or can be derived again, so after a crash at any point the
next call repairs the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.digests import spec_digest
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus, StageState
from finetune_api.stage import JobIdentity, Stage
from finetune_core import progression
from finetune_core.policies import deadline, gates, revision
from finetune_core.policies.failure import failure_status
from finetune_core.policies.previous import previous_of
from finetune_core.policies.world import world_of
from finetune_core.progression import Progression
from finetune_core.runs import Observed, ObservedRun, Plan, RunId, StageRun, StopRun
from finetune_core.status import Suspension, current_stage, with_conditions
from finetune_core.times import from_text, to_text

STOP_GRACE = timedelta(minutes=5)
"""Time for a last checkpoint of a run that is stopped on request."""

_REQUEUE_WHILE_STOPPING = timedelta(seconds=10)
_REQUEUE_WHILE_ALIVE = timedelta(minutes=1)


def plan(job: FineTuneJob, observed: Observed, now: datetime) -> Plan:
    """The runs to start and stop now, the status to write, and when to reconcile again.

    Args:
        job: The desired spec and the last written status.
        observed: Every existing run of the job, of any revision.
        now: The time, with a time zone.
    """
    status = revision.current_revision(job.spec, job.status, observed, now)
    if not observed.stops:
        status = revision.resumed(status, now)
    alive = {run.id: run for run in observed.runs if run.alive}
    if status.completion_time:
        stop = _stop(alive, lambda _: True, STOP_GRACE)
        return Plan((), stop, _finished(status, job), _REQUEUE_WHILE_STOPPING if stop else None)

    progress = progression.advance(status, job.spec, observed, now)
    if moved := revision.after_storage_conflict(progress.status, job.spec, now):
        progress = Progression(moved)
    progress = _check_gates(progress, job)
    progress = _check_deadline(progress, job, observed, alive, now)
    if progress.finished and not alive:
        finished = progress.status.model_copy(update={"completion_time": to_text(now), "progress": None})
        return Plan((), (), with_conditions(finished, job.metadata.generation, Suspension.NONE, now), None)

    stop = _stops(progress, alive, observed)
    start, status, wake = _next_run(progress, job, observed, alive, now)
    suspended = observed.stops and not alive and progress.expected is None
    suspension = Suspension.NONE
    if observed.stops:
        suspension = Suspension.COMPLETE if suspended else Suspension.REQUESTED
    if suspended:
        status = status.model_copy(update={"suspend_time": status.suspend_time or to_text(now)})
    status = with_conditions(status, job.metadata.generation, suspension, now, observed.refusal)
    return Plan(
        start, stop, status, None if suspended else _requeue_after(alive, stop, (*progress.wake_at, *wake), now)
    )


def _finished(status: FineTuneJobStatus, job: FineTuneJob) -> FineTuneJobStatus:
    """The status of a finished job, for its current generation."""
    generation = job.metadata.generation
    conditions = tuple(c.model_copy(update={"observed_generation": generation}) for c in status.conditions)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _check_gates(progress: Progression, job: FineTuneJob) -> Progression:
    """Fail the job if its result does not pass a gate."""
    status = progress.status
    evaluated = status.stage(Stage.EVALUATE)
    if evaluated.state is not StageState.SUCCEEDED or status.evaluation is None or progress.finished:
        return progress
    if status.stage(Stage.PUBLISH).state is StageState.SUCCEEDED:
        return progress
    refusal = gates.refusal(job.spec.evaluation.gates, status.evaluation)
    if refusal is None:
        return progress
    failure = failure_status(
        RunId(status.revision, Stage.EVALUATE, evaluated.attempt), Reason.GATE_FAILED, f"{refusal}.", retried=False
    )
    return replace(progress, status=status.model_copy(update={"failure": failure}), finished=True)


def _check_deadline(
    progress: Progression, job: FineTuneJob, observed: Observed, alive: dict[RunId, ObservedRun], now: datetime
) -> Progression:
    """Fail a job after its active deadline; time in which it is suspended does not count."""
    due = deadline.deadline(progress.status, job.spec.resilience, now)
    stage = current_stage(progress.status)
    if due is None or stage is None or progress.finished or observed.stops:
        return progress
    if now < due:
        return replace(progress, wake_at=(*progress.wake_at, due))
    error = deadline.exceeded(stage.name, job.spec.resilience)
    run = RunId(progress.status.revision, stage.name, max(stage.attempt, 1))
    status = progress.status.model_copy(
        update={"failure": failure_status(run, error.reason, error.message, retried=False)}
    )
    stopped = not alive and progress.expected is None
    if stopped:
        failed = stage.model_copy(
            update={
                "state": StageState.FAILED,
                "completion_time": to_text(now),
                "waiting_for": None,
                "message": error.message,
            }
        )
        status = status.with_stage(failed)
    return replace(progress, status=status, finished=stopped, to_stop=dict.fromkeys(alive, deadline.GRACE))


def _stops(progress: Progression, alive: dict[RunId, ObservedRun], observed: Observed) -> tuple[StopRun, ...]:
    """The runs to stop: all of them at the end or on request, otherwise those that the job does not need."""
    if progress.finished or observed.stops:
        return _stop(alive, lambda _: True, STOP_GRACE, progress.to_stop)
    return _stop(alive, lambda id_: id_ != progress.expected or id_ in progress.to_stop, STOP_GRACE, progress.to_stop)


def _stop(
    alive: dict[RunId, ObservedRun],
    unwanted: Callable[[RunId], bool],
    grace: timedelta,
    graces: dict[RunId, timedelta] | None = None,
) -> tuple[StopRun, ...]:
    return tuple(StopRun(id_, (graces or {}).get(id_, grace)) for id_ in alive if unwanted(id_))


def _next_run(
    progress: Progression, job: FineTuneJob, observed: Observed, alive: dict[RunId, ObservedRun], now: datetime
) -> tuple[tuple[StageRun, ...], FineTuneJobStatus, tuple[datetime, ...]]:
    """The run to start and the status with it; or, if it is too early, the time at which to start it."""
    status, stage = progress.status, current_stage(progress.status)
    if progress.finished or stage is None or alive or observed.stops or progress.expected is not None:
        return (), status, ()
    due = from_text(stage.retry_time) if stage.retry_time else None
    if due is not None and now < due:
        return (), status, (due,)
    run = _stage_run(job, status, stage.name, status.attempts(stage.name) + 1)
    return (run,), progression.with_next_attempt(status, stage, now), ()


def rejected_run(job: FineTuneJob, observed: Observed) -> StageRun | None:
    """The run that is in the status but was not created, because the API server rejected it."""
    stage = current_stage(job.status)
    if stage is None or stage.waiting_for is None or stage.completion_time or job.status.completion_time:
        return None
    if job.status.training is None:
        return None
    run = _stage_run(job, job.status, stage.name, stage.attempt)
    if spec_digest(job.spec) != job.status.spec_digest or any(existing.id == run.id for existing in observed.runs):
        return None
    return run


def _stage_run(job: FineTuneJob, status: FineTuneJobStatus, stage: Stage, attempt: int) -> StageRun:
    training = status.training
    assert training
    return StageRun(
        id=RunId(status.revision, stage, attempt),
        job=JobIdentity(
            namespace=job.metadata.namespace,
            name=job.metadata.name,
            uid=job.metadata.uid,
            revision=status.revision,
            spec_digest=status.spec_digest,
            training_revision=training.revision,
            training_digest=training.spec_digest,
        ),
        world=world_of(stage, job.spec),
        spec=job.spec,
        previous=previous_of(job.spec, status),
    )


def _requeue_after(
    alive: dict[RunId, ObservedRun], stop: tuple[StopRun, ...], wake: tuple[datetime, ...], now: datetime
) -> timedelta:
    waits = [max(moment - now, timedelta(0)) for moment in wake]
    if stop:
        waits.append(_REQUEUE_WHILE_STOPPING)
    if alive or not waits:
        waits.append(_REQUEUE_WHILE_ALIVE)
    return min(waits)
