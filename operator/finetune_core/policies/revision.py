"""Revisions: a changed spec starts a new one with its own storage directory; the old one goes to the history."""

from __future__ import annotations

from datetime import datetime

from finetune_api.digests import spec_digest, training_digest
from finetune_api.failures import Reason
from finetune_api.job import (
    FineTuneJobSpec,
    FineTuneJobStatus,
    Phase,
    RevisionRecord,
    StageAttempts,
    StageState,
    StageStatus,
    TrainingStatus,
)
from finetune_api.stage import STAGES, Stage
from finetune_core.constants import CONDITION_OF
from finetune_core.runs import Observed
from finetune_core.status import current_stage
from finetune_core.times import from_text, to_text

HISTORY_LIMIT = 20
"""Earlier revisions that the status keeps."""


def current_revision(
    spec: FineTuneJobSpec, status: FineTuneJobStatus, observed: Observed, now: datetime
) -> FineTuneJobStatus:
    """``status``, or that of another revision if the spec digest has changed.

    A spec that the job had before continues with its revision. Any other spec starts the next one, which uses the
    training of an earlier revision if the specs differ in nothing that determines the weights.
    """
    digest = spec_digest(spec)
    if status.revision and status.spec_digest == digest:
        if status.training:
            return status
        # The status was written by an earlier version.
        training = TrainingStatus(revision=status.revision, spec_digest=training_digest(spec))
        return status.model_copy(update={"training": training})
    status = _with_unrecorded_attempts(status, observed)
    if earlier := next((record for record in reversed(status.history) if record.spec_digest == digest), None):
        return _returned(status, earlier, spec, now)
    # After a crash there may be runs of a revision that is not in the status: its number is taken.
    taken = max((run.id.revision for run in observed.runs if run.spec_digest not in ("", digest)), default=0)
    number, of_training = max(_next_number(status), taken + 1), training_digest(spec)
    training = _known_training(status, of_training) or TrainingStatus(revision=number, spec_digest=of_training)
    return _started(status, number, spec, training, now)


def _with_unrecorded_attempts(status: FineTuneJobStatus, observed: Observed) -> FineTuneJobStatus:
    """``status`` with the attempts that were started before a crash: their names are taken for good."""
    found = {
        name: max([0, *(run.id.attempt for run in observed.runs if run.id[:2] == (status.revision, name))])
        for name in STAGES
    }
    attempts = {name: max(count, status.attempts(name)) for name, count in found.items()}
    entries = tuple(StageAttempts(name=name, attempts=count) for name, count in attempts.items() if count)
    return status.model_copy(update={"earlier_attempts": entries})


def trained_again(status: FineTuneJobStatus, spec: FineTuneJobSpec, now: datetime) -> FineTuneJobStatus:
    """The initial status of the next revision, which uses the training of no other revision."""
    number = _next_number(status)
    training = TrainingStatus(revision=number, spec_digest=training_digest(spec))
    return _started(status, number, spec, training, now)


def evaluated_again(status: FineTuneJobStatus, spec: FineTuneJobSpec, now: datetime) -> FineTuneJobStatus:
    """The initial status of the next revision, which uses the training of this one if it still exists."""
    number, of_training = _next_number(status), training_digest(spec)
    training = _known_training(status, of_training) or TrainingStatus(revision=number, spec_digest=of_training)
    return _started(status, number, spec, training, now)


def after_storage_conflict(status: FineTuneJobStatus, spec: FineTuneJobSpec, now: datetime) -> FineTuneJobStatus | None:
    """The status of the next revision, if the storage directory of this one belongs to another spec or other inputs.

    None if there is no such conflict.
    """
    if status.failure is None or status.failure.reason is not Reason.REVISION_TAKEN or status.completion_time:
        return None
    following = trained_again(status, spec, now)
    if status.training and status.training.inputs_digest:
        return following
    # The revision never ran, so it does not go to the history.
    return following.model_copy(update={"history": status.history, "start_time": status.start_time})


def resumed(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job that is no longer suspended."""
    if status.suspend_time is None:
        return status
    paused = _paused(status, from_text(status.suspend_time), now)
    return paused.model_copy(update={"suspend_time": None, "resume_time": to_text(now)})


def reopened(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status of a failed revision that a person retries from the failed stage.

    A revision that has not finished, was published, or did not pass a gate is returned unchanged.
    """
    if status.completion_time is None or status.failure is None or status.failure.reason is Reason.GATE_FAILED:
        return status
    paused = _paused(status, from_text(status.completion_time), now)
    stages = tuple(
        stage.model_copy(
            update={"state": StageState.PENDING, "restarts": 0, "unavailable_since": None, "message": "Retried."}
        )
        if stage.state is StageState.FAILED
        else stage
        for stage in paused.stages
    )
    return status.model_copy(
        update={"stages": stages, "failure": None, "completion_time": None, "resume_time": to_text(now)}
    )


def _paused(status: FineTuneJobStatus, since: datetime, now: datetime) -> FineTuneJobStatus:
    """``status`` with the pause added to the stage that it interrupted, so that its duration excludes the pause."""
    stage = current_stage(status)
    if stage is None or stage.start_time is None:
        return status
    seconds = max(round((now - since).total_seconds()), 0)
    return status.with_stage(stage.model_copy(update={"paused_seconds": stage.paused_seconds + seconds}))


def after_publication(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """``status`` once the revision is published: the publish stage has deleted the training of all others."""
    kept = status.training.revision if status.training else None
    return status.model_copy(update={"history": tuple(_without_training(record, kept) for record in status.history)})


def _without_training(record: RevisionRecord, kept: int | None) -> RevisionRecord:
    training = record.training
    if training is None or training.revision == kept:
        return record
    # The artifact of a published revision takes the place of its weights.
    weights = training.weights_digest if record.artifact else ""
    deleted = training.model_copy(update={"deleted": True, "weights_digest": weights})
    return record.model_copy(update={"training": deleted})


def _next_number(status: FineTuneJobStatus) -> int:
    """A number that no revision had; it may have returned to an earlier one."""
    return max((status.revision, *(record.revision for record in status.history))) + 1


def _known_training(status: FineTuneJobStatus, digest: str) -> TrainingStatus | None:
    """The latest training with the fields of ``digest`` whose data and weights exist."""
    known = (status.training, *(record.training for record in reversed(status.history)))
    return next((one for one in known if one and one.spec_digest == digest and not one.deleted), None)


def _started(
    status: FineTuneJobStatus, number: int, spec: FineTuneJobSpec, training: TrainingStatus, now: datetime
) -> FineTuneJobStatus:
    """The initial status of a revision that follows ``status``."""
    of_stages = set(CONDITION_OF.values())
    return FineTuneJobStatus(
        observed_generation=status.observed_generation,
        revision=number,
        spec_digest=spec_digest(spec),
        training=training,
        stages=optional_stages(spec),
        conditions=tuple(c for c in status.conditions if c.type not in of_stages),
        start_time=to_text(now),
        history=(*status.history, *_record(status))[-HISTORY_LIMIT:],
    )


def optional_stages(spec: FineTuneJobSpec) -> tuple[StageStatus, ...]:
    """The entries of stages that only some revisions have, as the status of a revision begins with them."""
    responds = spec.distillation is not None and spec.distillation.generating_teacher is not None
    return (StageStatus(name=Stage.RESPOND, state=StageState.PENDING, attempt=0),) if responds else ()


def _returned(
    status: FineTuneJobStatus, record: RevisionRecord, spec: FineTuneJobSpec, now: datetime
) -> FineTuneJobStatus:
    """The status of a job whose spec is that of an earlier revision again; its stages find their stored results."""
    training = record.training or TrainingStatus(revision=record.revision, spec_digest=training_digest(spec))
    started = _started(status, record.revision, spec, training, now)
    history = tuple(other for other in started.history if other.revision != record.revision)
    return started.model_copy(
        update={"history": history, "artifact": record.artifact, "earlier_attempts": record.attempts}
    )


def _record(status: FineTuneJobStatus) -> tuple[RevisionRecord, ...]:
    if not status.revision:
        return ()
    return (
        RevisionRecord(
            revision=status.revision,
            phase=status.phase if status.completion_time else Phase.SUPERSEDED,
            spec_digest=status.spec_digest,
            artifact=status.artifact,
            score=status.evaluation.score if status.evaluation else None,
            training=status.training,
            start_time=status.start_time,
            completion_time=status.completion_time,
            attempts=tuple(
                StageAttempts(name=name, attempts=count) for name in STAGES if (count := status.attempts(name))
            ),
        ),
    )
