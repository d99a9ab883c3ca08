"""Conditions and phase: what a status says, derived from what happened to its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal

from finetune_api.failures import Reason
from finetune_api.job import (
    Condition,
    ConditionType,
    FailureStatus,
    FineTuneJobStatus,
    Phase,
    StageState,
    StageStatus,
)
from finetune_api.stage import STAGES, Stage
from finetune_core.constants import CONDITION_OF
from finetune_core.times import to_text

Truth = Literal["True", "False", "Unknown"]

SUSPENDING, SUSPENDED = str(Phase.SUSPENDING), str(Phase.SUSPENDED)
"""Reasons of the overall conditions while a job is asked to hold."""

_PHASE_OF = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
    Stage.PUBLISH: Phase.PUBLISHING,
}


class Hold(Enum):
    """Whether somebody wants the job to hold."""

    NO = "it goes on"
    ASKED = "what runs is being stopped"
    DONE = "nothing runs"


_RUNNING_REASON = {StageState.RUNNING: "Running", StageState.PENDING: "Starting"}


@dataclass(frozen=True)
class _Said:
    """A condition without its times."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def described(status: FineTuneJobStatus, generation: int, hold: Hold, now: datetime) -> FineTuneJobStatus:
    """``status`` with the conditions and the phase that follow from its other fields.

    ``hold`` says whether the job holds on request.
    """
    before = {condition.type: condition for condition in status.conditions}
    conditions = tuple(
        _condition(said, before, generation, now) for said in (*_stages(status), *_overall(status, hold))
    )
    return status.model_copy(
        update={"observed_generation": generation, "conditions": conditions, "phase": phase_of(status, hold)}
    )


def refused(status: FineTuneJobStatus, generation: int, sentence: str, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job whose spec the operator cannot understand; everything else in it stays."""
    told = [
        _Said(ConditionType.ACCEPTED, "False", "Invalid", sentence),
        _Said(ConditionType.READY, "False", "Invalid", sentence),
        _Said(ConditionType.RECONCILING, "False", "Invalid", "Nothing is done before the spec is corrected."),
        _Said(ConditionType.STALLED, "True", "Invalid", sentence),
    ]
    changes = {"observed_generation": generation, "phase": Phase.FAILED}
    return _with_conditions(status, told, generation, now).model_copy(update=changes)


def troubled(status: FineTuneJobStatus, generation: int, sentence: str, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job that the operator fails to look after, through a fault of its own."""
    told = [
        _Said(ConditionType.READY, "Unknown", "ReconcileError", sentence),
        _Said(ConditionType.RECONCILING, "True", "ReconcileError", sentence),
    ]
    return _with_conditions(status, told, generation, now)


def _with_conditions(status: FineTuneJobStatus, told: list[_Said], generation: int, now: datetime) -> FineTuneJobStatus:
    before = {condition.type: condition for condition in status.conditions}
    changed = {said.type: _condition(said, before, generation, now) for said in told}
    return status.model_copy(update={"conditions": tuple({**before, **changed}.values())})


def _condition(said: _Said, before: dict[ConditionType, Condition], generation: int, now: datetime) -> Condition:
    return Condition(
        type=said.type,
        status=said.status,
        reason=said.reason,
        message=said.message,
        observed_generation=generation,
        last_transition_time=_since(said, before.get(said.type), now),
    )


def phase_of(status: FineTuneJobStatus, hold: Hold) -> Phase:
    """The summary of ``status`` for people; ``hold`` says whether the job holds on request."""
    if status.completion_time and status.failure is None:
        return Phase.SUCCEEDED
    if status.completion_time and status.failure:
        return Phase.REJECTED if status.failure.reason is Reason.GATE_FAILED else Phase.FAILED
    if hold is not Hold.NO:
        return Phase.SUSPENDING if hold is Hold.ASKED else Phase.SUSPENDED
    started = [stage.name for stage in status.stages if stage.attempt]
    return _PHASE_OF[started[-1]] if started else Phase.PENDING


def current_stage(status: FineTuneJobStatus) -> StageStatus | None:
    """The first stage that has not succeeded; None when all have."""
    return next((stage for name in STAGES if (stage := status.stage(name)).state is not StageState.SUCCEEDED), None)


def _since(said: _Said, before: Condition | None, now: datetime) -> str:
    return before.last_transition_time if before and before.status == said.status else to_text(now)


def _stages(status: FineTuneJobStatus) -> Iterator[_Said]:
    yield _Said(ConditionType.ACCEPTED, "True", "Accepted", "The spec is valid.")
    yield from (_stage(stage, status.failure) for stage in status.stages if stage.attempt or stage.completion_time)
    if status.failure and status.failure.reason is Reason.GATE_FAILED:
        told = f"Not published: {status.failure.message}"
        yield _Said(ConditionType.PUBLISHED, "False", Reason.GATE_FAILED, told)


def _stage(stage: StageStatus, failure: FailureStatus | None) -> _Said:
    type_ = CONDITION_OF[stage.name]
    if stage.state is StageState.SUCCEEDED:
        return _Said(type_, "True", "Succeeded", f"{stage.message}.")
    if stage.completion_time is None:
        return _Said(type_, "Unknown", stage.waiting_for or _RUNNING_REASON[stage.state], stage.message)
    if failure and failure.stage is stage.name:
        return _Said(type_, "False", failure.reason, failure.message)
    return _Said(type_, "False", SUSPENDED, stage.message)


def _how_to_try_again(status: FineTuneJobStatus) -> str:
    whence = f", from its checkpoint of step {status.checkpoint.step}" if status.checkpoint else ""
    return (
        "No further attempt is made: apply a changed spec for the next revision, or delete the job and apply the same "
        f"one to try it again{whence}."
    )


def _overall(status: FineTuneJobStatus, hold: Hold) -> Iterator[_Said]:
    failure, current = status.failure, current_stage(status)
    if status.completion_time and failure is None:
        done = f"Published {status.artifact.uri}." if status.artifact else "Published."
        yield _Said(ConditionType.READY, "True", "Published", done)
        yield _Said(ConditionType.RECONCILING, "False", "Done", "Nothing is left to do.")
        yield _Said(ConditionType.STALLED, "False", "Done", "Nothing is in the way.")
    elif status.completion_time and failure:
        yield _Said(ConditionType.READY, "False", failure.reason, failure.message)
        yield _Said(ConditionType.RECONCILING, "False", failure.reason, _how_to_try_again(status))
        yield _Said(ConditionType.STALLED, "True", failure.reason, failure.message)
    elif hold is not Hold.NO:
        stage = current.name if current else Stage.PUBLISH
        truth: Truth = "True" if hold is Hold.ASKED else "False"
        reason, told = SUSPENDED, f"Holds in stage {stage}; it goes on when it is resumed."
        if hold is Hold.ASKED:
            reason, told = SUSPENDING, f"Stage {stage} is being stopped, after a checkpoint if it trains."
        yield _Said(ConditionType.READY, "Unknown", reason, told)
        yield _Said(ConditionType.RECONCILING, truth, reason, told)
        yield _Said(ConditionType.STALLED, "False", reason, "Nothing is in the way.")
    else:
        reason, told = "Progressing", "The job has not started yet."
        failed_now = failure and current and (failure.stage, failure.attempt) == (current.name, current.attempt)
        if current and current.waiting_for and not failed_now:
            reason, told = current.waiting_for, current.message
        elif failure and failure.retried:
            reason, told = "Retrying", f"{failure.stage} is tried again: {failure.message}"
        elif failure:
            reason, told = "Ending", f"What runs is being ended: {failure.message}"
        elif current and (current.attempt or current.name is not Stage.PREPARE):
            told = f"In stage {current.name}."
        yield _Said(ConditionType.READY, "Unknown", reason, told)
        yield _Said(ConditionType.RECONCILING, "True", reason, told)
        clear = reason == "Progressing"
        yield _Said(ConditionType.STALLED, "False", reason, "Nothing is in the way." if clear else told)
