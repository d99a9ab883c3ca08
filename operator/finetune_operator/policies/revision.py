"""When a job starts over: a changed spec is a new revision with its own place in storage; the old one is history."""

from __future__ import annotations

from datetime import datetime

from finetune_api.failures import Reason
from finetune_api.job import (
    FineTuneJobSpec,
    FineTuneJobStatus,
    Phase,
    RevisionRecord,
    StageState,
    StageStatus,
    spec_digest,
)
from finetune_api.stage import STAGES

from finetune_operator.constants import CONDITION_OF
from finetune_operator.times import to_text

HISTORY_LIMIT = 20
"""Former revisions that status keeps."""


def current_revision(spec: FineTuneJobSpec, status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """``status`` itself, or that of the next revision when what decides the result has changed."""
    digest = spec_digest(spec)
    return status if status.spec_digest == digest and status.revision else next_revision(status, digest, now)


def next_revision(status: FineTuneJobStatus, digest: str, now: datetime) -> FineTuneJobStatus:
    """The status of a revision that has done nothing yet."""
    # A stage condition that is Unknown tells since when a run is awaited: those of the old revision must not.
    awaited = set(CONDITION_OF.values())
    return FineTuneJobStatus(
        observed_generation=status.observed_generation,
        revision=status.revision + 1,
        spec_digest=digest,
        conditions=tuple(c for c in status.conditions if c.status != "Unknown" or c.type not in awaited),
        stages=tuple(StageStatus(name=stage, state=StageState.PENDING, attempt=0) for stage in STAGES),
        start_time=to_text(now),
        history=(*status.history, *_record(status))[-HISTORY_LIMIT:],
    )


def reopened(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status of a failed revision that is tried again where it failed, because a person acted and asks for it.

    A revision that has not ended, was published or was refused by a gate stays as it is.
    """
    if status.completion_time is None or status.failure is None or status.failure.reason is Reason.GATE_FAILED:
        return status
    stages = tuple(
        stage.model_copy(update={"state": StageState.PENDING, "restarts": 0, "message": ""})
        if stage.state is StageState.FAILED
        else stage
        for stage in status.stages
    )
    return status.model_copy(update={"stages": stages, "failure": None, "completion_time": None})


def _record(status: FineTuneJobStatus) -> tuple[RevisionRecord, ...]:
    if not status.revision:
        return ()
    return (
        RevisionRecord(
            revision=status.revision,
            phase=status.phase if status.completion_time else Phase.STOPPED,
            spec_digest=status.spec_digest,
            artifact=status.artifact,
            score=status.evaluation.score if status.evaluation else None,
        ),
    )
