"""Conditions and phase, derived from the other fields of the status."""

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
from finetune_api.layout import REPORT
from finetune_api.stage import CheckpointRef, Stage
from finetune_core.constants import CONDITION_OF
from finetune_core.remedies import after_last_attempt
from finetune_core.runs import Refusal
from finetune_core.sentences import sentence
from finetune_core.times import to_text

Truth = Literal["True", "False", "Unknown"]

SUSPENDING, SUSPENDED = str(Phase.SUSPENDING), str(Phase.SUSPENDED)
"""Reasons of Ready, Reconciling and Stalled while ``spec.suspend`` is true."""
_PROGRESSING = "Progressing"

_LONGEST_ADDRESS = 200
"""Of a report that the condition Ready names."""

_PHASE_OF = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.RESPOND: Phase.RESPONDING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
    Stage.PUBLISH: Phase.PUBLISHING,
}


class Suspension(Enum):
    """How far the suspension of a job has come."""

    NONE = "not suspended"
    REQUESTED = "runs are being stopped"
    COMPLETE = "no run is left"


_RUNNING_REASON = {StageState.RUNNING: "Running", StageState.PENDING: "Starting"}


@dataclass(frozen=True)
class _Condition:
    """A condition without generation and time."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def with_conditions(
    status: FineTuneJobStatus,
    generation: int,
    suspension: Suspension,
    now: datetime,
    refusal: Refusal | None = None,
) -> FineTuneJobStatus:
    """``status`` with the conditions and the phase that follow from its other fields, or from ``refusal``."""
    before = {condition.type: condition for condition in status.conditions}
    accepted = _Condition(ConditionType.ACCEPTED, "True", "Accepted", "The spec is valid.")
    overall = list(_overall_conditions(status, suspension))
    phase = phase_of(status, suspension)
    if refusal:
        waits = "The operator waits until it may run the job."
        accepted, *overall = _not_accepted(refusal.reason, refusal.message, waits)
        phase = Phase.FAILED
    conditions = tuple(
        _condition(new, before, generation, now) for new in (accepted, *_stage_conditions(status), *overall)
    )
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions, "phase": phase})


def invalid_spec(status: FineTuneJobStatus, generation: int, message: str, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job whose spec the operator cannot parse; all other fields stay."""
    new = _not_accepted("Invalid", message, "The operator waits for a corrected spec.")
    changes = {"observed_generation": generation, "phase": Phase.FAILED}
    return _updated(status, new, generation, now).model_copy(update=changes)


def _not_accepted(reason: str, message: str, waits: str) -> list[_Condition]:
    return [
        _Condition(ConditionType.ACCEPTED, "False", reason, message),
        _Condition(ConditionType.READY, "False", reason, message),
        _Condition(ConditionType.RECONCILING, "False", reason, waits),
        _Condition(ConditionType.STALLED, "True", reason, message),
    ]


def reconcile_error(status: FineTuneJobStatus, generation: int, message: str, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job that the operator fails to reconcile because of a bug."""
    new = [
        _Condition(ConditionType.READY, "Unknown", "ReconcileError", message),
        _Condition(ConditionType.RECONCILING, "True", "ReconcileError", message),
    ]
    return _updated(status, new, generation, now)


def _updated(status: FineTuneJobStatus, new: list[_Condition], generation: int, now: datetime) -> FineTuneJobStatus:
    before = {condition.type: condition for condition in status.conditions}
    changed = {condition.type: _condition(condition, before, generation, now) for condition in new}
    return status.model_copy(update={"conditions": tuple({**before, **changed}.values())})


def _condition(new: _Condition, before: dict[ConditionType, Condition], generation: int, now: datetime) -> Condition:
    return Condition(
        type=new.type,
        status=new.status,
        reason=new.reason,
        message=new.message,
        observed_generation=generation,
        last_transition_time=_transition_time(new, before.get(new.type), now),
    )


def phase_of(status: FineTuneJobStatus, suspension: Suspension) -> Phase:
    """The one-word summary of ``status`` for people."""
    if status.completion_time and status.failure is None:
        return Phase.SUCCEEDED
    if status.completion_time and status.failure:
        return Phase.REJECTED if status.failure.reason is Reason.GATE_FAILED else Phase.FAILED
    if suspension is not Suspension.NONE:
        return Phase.SUSPENDING if suspension is Suspension.REQUESTED else Phase.SUSPENDED
    started = [stage.name for stage in status.stages if stage.attempt]
    return _PHASE_OF[started[-1]] if started else Phase.PENDING


def current_stage(status: FineTuneJobStatus) -> StageStatus | None:
    """The first stage that has not succeeded; None when all have."""
    return next(
        (stage for name in status.planned if (stage := status.stage(name)).state is not StageState.SUCCEEDED), None
    )


def _transition_time(new: _Condition, before: Condition | None, now: datetime) -> str:
    return before.last_transition_time if before and before.status == new.status else to_text(now)


def _stage_conditions(status: FineTuneJobStatus) -> Iterator[_Condition]:
    yield from (_of_stage(stage, status.failure) for stage in status.stages if stage.attempt or stage.completion_time)
    if status.failure and status.failure.reason is Reason.GATE_FAILED:
        message = f"Not published: {status.failure.message}"
        yield _Condition(ConditionType.PUBLISHED, "False", Reason.GATE_FAILED, message)


def _of_stage(stage: StageStatus, failure: FailureStatus | None) -> _Condition:
    type_ = CONDITION_OF[stage.name]
    if stage.state is StageState.SUCCEEDED:
        return _Condition(type_, "True", "Succeeded", f"{stage.message}.")
    if stage.completion_time is None:
        return _Condition(type_, "Unknown", stage.waiting_for or _RUNNING_REASON[stage.state], stage.message)
    if failure and failure.stage is stage.name:
        return _Condition(type_, "False", failure.reason, failure.message)
    return _Condition(type_, "False", SUSPENDED, stage.message)


def _has_recovered(status: FineTuneJobStatus, stage: StageStatus, failure: FailureStatus) -> bool:
    """Whether a later attempt of the stage that failed has made a step."""
    progress = status.progress
    counted = progress is not None and progress.stage is stage.name and progress.percent is not None
    return failure.stage is stage.name and failure.attempt < stage.attempt and counted


def _retry_instructions(failure: FailureStatus, checkpoint: CheckpointRef | None) -> str:
    resume = f" from the checkpoint at step {checkpoint.step}" if checkpoint else ""
    return f"There are no more attempts. {after_last_attempt(failure.reason, resume)}"


def _with_report(message: str, status: FineTuneJobStatus) -> str:
    """``message`` of a rejected result with the address of its report, if that is short."""
    uri = status.evaluation.uri if status.evaluation else ""
    if not uri or len(uri) > _LONGEST_ADDRESS:
        return message
    return f"{sentence(message)} The report is {uri}/{REPORT}"


def _overall_conditions(status: FineTuneJobStatus, suspension: Suspension) -> Iterator[_Condition]:
    failure, current = status.failure, current_stage(status)
    if status.completion_time and failure is None:
        published = f"Published {status.artifact.uri}" if status.artifact else "Published"
        if status.evaluation and status.evaluation.verdict:
            published += f"; {status.evaluation.metric}: {status.evaluation.verdict}"
        yield _Condition(ConditionType.READY, "True", "Published", f"{published}.")
        yield _Condition(ConditionType.RECONCILING, "False", "Done", "All stages succeeded.")
        yield _Condition(ConditionType.STALLED, "False", "Done", "Nothing blocks the job.")
    elif status.completion_time and failure:
        rejected = failure.reason is Reason.GATE_FAILED
        message = _with_report(failure.message, status) if rejected else failure.message
        instructions = _retry_instructions(failure, status.checkpoint)
        yield _Condition(ConditionType.READY, "False", failure.reason, message)
        yield _Condition(ConditionType.RECONCILING, "False", failure.reason, instructions)
        yield _Condition(ConditionType.STALLED, "True", failure.reason, failure.message)
    elif suspension is not Suspension.NONE:
        stage = current.name if current else Stage.PUBLISH
        truth: Truth = "True" if suspension is Suspension.REQUESTED else "False"
        reason, message = SUSPENDED, f"Suspended in stage {stage}; set spec.suspend to false to resume."
        if suspension is Suspension.REQUESTED:
            reason, message = SUSPENDING, f"Stage {stage} is stopping; if it trains, it writes a checkpoint first."
        yield _Condition(ConditionType.READY, "Unknown", reason, message)
        yield _Condition(ConditionType.RECONCILING, truth, reason, message)
        yield _Condition(ConditionType.STALLED, "False", reason, "Nothing blocks the job.")
    else:
        reason, message = _activity(status, current)
        yield _Condition(ConditionType.READY, "Unknown", reason, message)
        yield _Condition(ConditionType.RECONCILING, "True", reason, message)
        clear = reason == _PROGRESSING
        yield _Condition(ConditionType.STALLED, "False", reason, "Nothing blocks the job." if clear else message)


def _activity(status: FineTuneJobStatus, current: StageStatus | None) -> tuple[str, str]:
    """Reason and message of a job that has not ended."""
    failure = status.failure
    failed_now = failure and current and (failure.stage, failure.attempt) == (current.name, current.attempt)
    if current and current.waiting_for and not failed_now:
        return current.waiting_for, current.message
    if failure and current and _has_recovered(status, current, failure):
        return (
            _PROGRESSING,
            f"In stage {current.name}, attempt {current.attempt}; the last one ended as {failure.reason}.",
        )
    if failure and failure.retried:
        return "Retrying", f"Stage {failure.stage} is retried: {failure.message}"
    if failure:
        return "Ending", f"The running stage is being stopped: {failure.message}"
    if current and (current.attempt or current.name is not Stage.PREPARE):
        return _PROGRESSING, f"In stage {current.name}."
    return _PROGRESSING, "The job has not started yet."
