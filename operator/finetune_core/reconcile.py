"""The plan: what must happen now, from what a job wants, what is seen of it and what time it is.

Pure and level-triggered. It may be called at any time and any number of times; what it decided is in the status or can
be derived again, so a crash at any point is put right by the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus, StageState, StageStatus, spec_digest
from finetune_api.stage import JobIdentity, Stage
from finetune_core import progression
from finetune_core.policies import deadline, gates, restart, revision
from finetune_core.policies.world import world_of
from finetune_core.progression import Progression
from finetune_core.runs import Observed, ObservedRun, Plan, RunId, StageRun, StopRun
from finetune_core.status import Hold, current_stage, described
from finetune_core.times import from_text, to_text

STOP_GRACE = timedelta(minutes=5)
"""Time that a run has for a last checkpoint when it is stopped on request."""

_LOOK_AGAIN_WHILE_ENDING = timedelta(seconds=10)
_LOOK_AGAIN_WHILE_PENDING = timedelta(minutes=1)


def plan(job: FineTuneJob, observed: Observed, now: datetime) -> Plan:
    """What to start and stop now, the status to write, and when to look again.

    Args:
        job: The spec that is wanted and the status that was written last.
        observed: Every run of the job that exists, of any revision.
        now: The time, with a time zone.
    """
    status = revision.current_revision(job.spec, job.status, observed, now)
    if not observed.stop_requested:
        status = revision.resumed(status, now)
    alive = {run.id: run for run in observed.runs if run.alive}
    if status.completion_time:
        stop = _stop(alive, lambda _: True, STOP_GRACE)
        return Plan((), stop, _ended(status, job), _LOOK_AGAIN_WHILE_ENDING if stop else None)

    progress = progression.advance(status, job.spec, observed, now)
    if moved := revision.moved_on(progress.status, now):
        progress = Progression(moved)
    progress = _check_gates(progress, job)
    progress = _check_deadline(progress, job, observed, alive, now)
    if progress.over and not alive:
        finished = progress.status.model_copy(update={"completion_time": to_text(now), "progress": None})
        return Plan((), (), described(finished, job.metadata.generation, Hold.NO, now), None)

    stop = _stops(progress, alive, observed)
    start, status, wake = _next_run(progress, job, observed, alive, now)
    holds = observed.stop_requested and not alive and progress.expected is None
    hold = Hold.DONE if holds else Hold.ASKED if observed.stop_requested else Hold.NO
    if holds:
        status = status.model_copy(update={"suspend_time": status.suspend_time or to_text(now)})
    status = described(status, job.metadata.generation, hold, now)
    return Plan(start, stop, status, None if holds else _look_again(alive, stop, (*progress.wake, *wake), now))


def _ended(status: FineTuneJobStatus, job: FineTuneJob) -> FineTuneJobStatus:
    """The status of a job that has ended, for the generation it has now."""
    generation = job.metadata.generation
    conditions = tuple(c.model_copy(update={"observed_generation": generation}) for c in status.conditions)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _check_gates(progress: Progression, job: FineTuneJob) -> Progression:
    """Refuse a result that is not good enough."""
    status = progress.status
    evaluated = status.stage(Stage.EVALUATE)
    if evaluated.state is not StageState.SUCCEEDED or status.evaluation is None or progress.over:
        return progress
    if status.stage(Stage.PUBLISH).state is StageState.SUCCEEDED:
        return progress
    refusal = gates.refusal(job.spec.evaluation.gates, status.evaluation)
    if refusal is None:
        return progress
    failure = progression.failure_status(
        RunId(status.revision, Stage.EVALUATE, evaluated.attempt), Reason.GATE_FAILED, f"{refusal}.", retried=False
    )
    return replace(progress, status=status.model_copy(update={"failure": failure}), over=True)


def _check_deadline(
    progress: Progression, job: FineTuneJob, observed: Observed, alive: dict[RunId, ObservedRun], now: datetime
) -> Progression:
    """End a job that takes too long; time in which it holds on request does not count."""
    due = deadline.deadline(progress.status, job.spec.resilience, now)
    stage = current_stage(progress.status)
    if due is None or stage is None or progress.over or observed.stop_requested:
        return progress
    if now < due:
        return replace(progress, wake=(*progress.wake, due))
    error = deadline.exceeded(stage.name, job.spec.resilience)
    run = RunId(progress.status.revision, stage.name, max(stage.attempt, 1))
    status = progress.status.model_copy(
        update={"failure": progression.failure_status(run, error.reason, error.message, retried=False)}
    )
    torn_down = not alive and progress.expected is None
    if torn_down:
        failed = stage.model_copy(
            update={
                "state": StageState.FAILED,
                "completion_time": to_text(now),
                "waiting_for": None,
                "message": error.message,
            }
        )
        status = status.with_stage(failed)
    return replace(progress, status=status, over=torn_down, ending=dict.fromkeys(alive, deadline.GRACE))


def _stops(progress: Progression, alive: dict[RunId, ObservedRun], observed: Observed) -> tuple[StopRun, ...]:
    """Everything that must not run: all of it at the end or on request, otherwise what nobody waits for."""
    if progress.over or observed.stop_requested:
        return _stop(alive, lambda _: True, STOP_GRACE, progress.ending)
    return _stop(alive, lambda id_: id_ != progress.expected or id_ in progress.ending, STOP_GRACE, progress.ending)


def _stop(
    alive: dict[RunId, ObservedRun],
    unwanted: Callable[[RunId], bool],
    grace: timedelta,
    hurried: dict[RunId, timedelta] | None = None,
) -> tuple[StopRun, ...]:
    return tuple(StopRun(id_, (hurried or {}).get(id_, grace)) for id_ in alive if unwanted(id_))


def _next_run(
    progress: Progression, job: FineTuneJob, observed: Observed, alive: dict[RunId, ObservedRun], now: datetime
) -> tuple[tuple[StageRun, ...], FineTuneJobStatus, tuple[datetime, ...]]:
    """The run to start, the status that tells of it, and when it would be time, if it is not."""
    status, stage = progress.status, current_stage(progress.status)
    if progress.over or stage is None or alive or observed.stop_requested or progress.expected is not None:
        return (), status, ()
    due = _due(stage, status)
    if due is not None and now < due:
        return (), status, (due,)
    run = _stage_run(job, status, stage.name, stage.attempt + 1)
    return (run,), progression.ordered(status, stage, now), ()


def refused_run(job: FineTuneJob, observed: Observed) -> StageRun | None:
    """The run that status tells of and that could not be created yet, by an executor that can be refused."""
    stage = current_stage(job.status)
    if stage is None or stage.waiting_for is None or stage.completion_time or job.status.completion_time:
        return None
    run = _stage_run(job, job.status, stage.name, stage.attempt)
    if spec_digest(job.spec) != job.status.spec_digest or any(seen.id == run.id for seen in observed.runs):
        return None
    return run


def _stage_run(job: FineTuneJob, status: FineTuneJobStatus, stage: Stage, attempt: int) -> StageRun:
    return StageRun(
        id=RunId(status.revision, stage, attempt),
        job=JobIdentity(
            namespace=job.metadata.namespace,
            name=job.metadata.name,
            uid=job.metadata.uid,
            revision=status.revision,
            spec_digest=status.spec_digest,
        ),
        world=world_of(stage, job.spec.distributed),
        spec=job.spec,
    )


def _due(stage: StageStatus, status: FineTuneJobStatus) -> datetime | None:
    """When the next attempt may start; None for the first."""
    if stage.completion_time is None:
        return None
    failure = status.failure
    known = failure if failure and (failure.stage, failure.attempt) == (stage.name, stage.attempt) else None
    return from_text(stage.completion_time) + restart.delay(
        known.reason if known else None, stage.attempt, stage.restarts
    )


def _look_again(
    alive: dict[RunId, ObservedRun], stop: tuple[StopRun, ...], wake: tuple[datetime, ...], now: datetime
) -> timedelta:
    waits = [max(moment - now, timedelta(0)) for moment in wake]
    if stop:
        waits.append(_LOOK_AGAIN_WHILE_ENDING)
    if alive or not waits:
        waits.append(_LOOK_AGAIN_WHILE_PENDING)
    return min(waits)
