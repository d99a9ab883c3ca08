"""Conditions and phase: what a status says, derived from what happened to its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from finetune_api.failures import Reason
from finetune_api.job import Condition, ConditionType, FineTuneJobStatus, Phase, StageState, StageStatus
from finetune_api.stage import Stage
from finetune_operator.constants import CONDITION_OF
from finetune_operator.times import to_text

Truth = Literal["True", "False", "Unknown"]

_PHASE_OF = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
    Stage.PUBLISH: Phase.PUBLISHING,
}


@dataclass(frozen=True)
class _Said:
    """A condition without its times."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def described(status: FineTuneJobStatus, generation: int, stopped: bool, now: datetime) -> FineTuneJobStatus:
    """``status`` with the conditions and the phase that follow from its other fields.

    ``stopped`` says that the job holds on request and nothing of it runs.
    """
    before = {condition.type: condition for condition in status.conditions}
    conditions = tuple(
        Condition(
            type=said.type,
            status=said.status,
            reason=said.reason,
            message=said.message,
            observed_generation=generation,
            last_transition_time=_since(said, before.get(said.type), now),
        )
        for said in (*_stages(status), *_overall(status, stopped))
    )
    return status.model_copy(
        update={"observed_generation": generation, "conditions": conditions, "phase": phase_of(conditions)}
    )


def phase_of(conditions: tuple[Condition, ...]) -> Phase:
    """The summary of ``conditions`` for people."""
    by_type = {condition.type: condition for condition in conditions}
    ready, stalled = by_type[ConditionType.READY], by_type[ConditionType.STALLED]
    if ready.status == "True":
        return Phase.SUCCEEDED
    if stalled.status == "True":
        return Phase.REJECTED if stalled.reason == Reason.GATE_FAILED else Phase.FAILED
    if by_type[ConditionType.RECONCILING].status != "True":
        return Phase.STOPPED
    reached = [stage for stage, type_ in CONDITION_OF.items() if by_type[type_].reason != "Waiting"]
    return _PHASE_OF[reached[-1]] if reached else Phase.PENDING


def current_stage(status: FineTuneJobStatus) -> StageStatus | None:
    """The first stage that has not succeeded; None when all have."""
    return next((stage for stage in status.stages if stage.state is not StageState.SUCCEEDED), None)


def _since(said: _Said, before: Condition | None, now: datetime) -> str:
    return before.last_transition_time if before and before.status == said.status else to_text(now)


def _stages(status: FineTuneJobStatus) -> Iterator[_Said]:
    yield _Said(ConditionType.ACCEPTED, "True", "Accepted", "The spec is valid.")
    current = current_stage(status)
    for stage in status.stages:
        type_ = CONDITION_OF[stage.name]
        if stage.state is StageState.SUCCEEDED:
            yield _Said(type_, "True", "Succeeded", f"{stage.message}.")
        elif status.failure and status.failure.reason is Reason.GATE_FAILED:
            yield _Said(type_, "False", Reason.GATE_FAILED, f"Not published: {status.failure.message}")
        elif stage is not current:
            yield _Said(type_, "False", "Waiting", f"Waits for {current.name if current else 'its turn'}.")
        else:
            yield _current(type_, stage, status)


def _current(type_: ConditionType, stage: StageStatus, status: FineTuneJobStatus) -> _Said:
    failure = status.failure
    if stage.attempt and stage.completion_time is None:
        reason = "Running" if stage.state is StageState.RUNNING else "Starting"
        return _Said(type_, "Unknown", reason, stage.message)
    if failure and failure.stage is stage.name and stage.attempt:
        return _Said(type_, "False", failure.reason, failure.message)
    return _Said(type_, "False", "Stopped" if stage.attempt else "Waiting", stage.message or "Not started yet.")


def _overall(status: FineTuneJobStatus, stopped: bool) -> Iterator[_Said]:
    failure, current = status.failure, current_stage(status)
    if status.completion_time and failure is None:
        done = f"Published {status.artifact.uri}." if status.artifact else "Published."
        yield _Said(ConditionType.READY, "True", "Published", done)
        yield _Said(ConditionType.RECONCILING, "False", "Done", "Nothing is left to do.")
        yield _Said(ConditionType.STALLED, "False", "Done", "Nothing is in the way.")
    elif status.completion_time and failure:
        yield _Said(ConditionType.READY, "False", failure.reason, failure.message)
        yield _Said(ConditionType.RECONCILING, "False", failure.reason, "No further attempt is made.")
        yield _Said(ConditionType.STALLED, "True", failure.reason, failure.message)
    elif stopped:
        told = (
            f"Stopped on request in stage {current.name if current else Stage.PUBLISH}; it goes on when it is resumed."
        )
        yield _Said(ConditionType.READY, "Unknown", "Stopped", told)
        yield _Said(ConditionType.RECONCILING, "False", "Stopped", told)
        yield _Said(ConditionType.STALLED, "False", "Stopped", "Nothing is in the way.")
    else:
        reason, told = "Progressing", "The job has not started yet."
        if failure and failure.retried:
            reason, told = "Retrying", f"{failure.stage} is tried again: {failure.message}"
        elif failure:
            reason, told = "Ending", f"What runs is being ended: {failure.message}"
        elif current and (current.attempt or current.name is not Stage.PREPARE):
            told = f"In stage {current.name}."
        yield _Said(ConditionType.READY, "Unknown", reason, told)
        yield _Said(ConditionType.RECONCILING, "True", reason, told)
        yield _Said(ConditionType.STALLED, "False", reason, "Nothing is in the way.")
