"""The earlier revision that a job is measured against."""

from __future__ import annotations

from finetune_api.job import FineTuneJobSpec, FineTuneJobStatus, RevisionRecord
from finetune_api.spec import BaselineChoice
from finetune_api.stage import PreviousRevision


def previous_of(spec: FineTuneJobSpec, status: FineTuneJobStatus) -> PreviousRevision | None:
    """The earlier revision that was published last, with weights of another training than that of ``status``.

    None if the job is not measured against it, because it asks for another baseline or continues from an adapter, or if
    there is none. A revision that only evaluates again has the weights of an earlier one, which say nothing about it.
    A job that returned to an earlier revision is measured against what came before that, as it was the first time.
    """
    if spec.evaluation.baseline is not BaselineChoice.PREVIOUS or spec.model.adapter is not None:
        return None
    own = status.training.revision if status.training else status.revision
    for record in reversed(status.history):
        if record.revision < status.revision and record.artifact is not None and _training(record) != own:
            return PreviousRevision(revision=record.revision, uri=record.artifact.uri, digest=record.artifact.digest)
    return None


def _training(record: RevisionRecord) -> int:
    return record.training.revision if record.training else record.revision
