"""Revisions: a changed spec starts a new one with its own storage directory; the old one goes to the history."""

from __future__ import annotations

from datetime import datetime

from finetune_api.failures import Reason
from finetune_api.job import (
    FineTuneJobSpec,
    FineTuneJobStatus,
    Phase,
    RevisionRecord,
    StageState,
    spec_digest,
)
from finetune_core.constants import CONDITION_OF
from finetune_core.runs import Observed
from finetune_core.times import to_text

HISTORY_LIMIT = 20
"""Earlier revisions that the status keeps."""


def current_revision(
    spec: FineTuneJobSpec, status: FineTuneJobStatus, observed: Observed, now: datetime
) -> FineTuneJobStatus:
    """``status``, or the status of the next revision if the spec digest has changed."""
    digest = spec_digest(spec)
    if status.revision and status.spec_digest == digest:
        return status
    # After a crash there may be runs of a revision that is not in the status: its number is taken.
    taken = max((run.id.revision for run in observed.runs if run.spec_digest not in ("", digest)), default=0)
    return next_revision(status, digest, now, number=max(status.revision, taken) + 1)


def next_revision(
    status: FineTuneJobStatus, digest: str, now: datetime, number: int | None = None
) -> FineTuneJobStatus:
    """The initial status of a revision; its number is the next one, unless ``number`` is given."""
    of_stages = set(CONDITION_OF.values())
    return FineTuneJobStatus(
        observed_generation=status.observed_generation,
        revision=number or status.revision + 1,
        spec_digest=digest,
        conditions=tuple(c for c in status.conditions if c.type not in of_stages),
        start_time=to_text(now),
        history=(*status.history, *_record(status))[-HISTORY_LIMIT:],
    )


def after_storage_conflict(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus | None:
    """The status of the next revision, if the storage directory of this one belongs to an earlier job of the same name.

    None if there is no such conflict.
    """
    if status.failure is None or status.failure.reason is not Reason.REVISION_TAKEN or status.completion_time:
        return None
    # The revision never ran, so it does not go to the history.
    following = next_revision(status, status.spec_digest, now)
    return following.model_copy(update={"history": status.history, "start_time": status.start_time})


def resumed(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """``status`` of a job that is no longer suspended."""
    if status.suspend_time is None:
        return status
    return status.model_copy(update={"suspend_time": None, "resume_time": to_text(now)})


def reopened(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status of a failed revision that a person retries from the failed stage.

    A revision that has not finished, was published, or did not pass a gate is returned unchanged.
    """
    if status.completion_time is None or status.failure is None or status.failure.reason is Reason.GATE_FAILED:
        return status
    stages = tuple(
        stage.model_copy(update={"state": StageState.PENDING, "restarts": 0, "message": "Retried."})
        if stage.state is StageState.FAILED
        else stage
        for stage in status.stages
    )
    return status.model_copy(
        update={"stages": stages, "failure": None, "completion_time": None, "resume_time": to_text(now)}
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
        ),
    )
