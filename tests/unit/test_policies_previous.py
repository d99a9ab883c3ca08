"""The earlier revision that a job is measured against."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import ArtifactStatus, FineTuneJobStatus, Phase, RevisionRecord, TrainingStatus
from finetune_api.stage import Stage
from finetune_core.policies.previous import previous_of
from finetune_core.reconcile import plan
from finetune_core.runs import Observed
from tests.builders import DIGEST, NOON, a_job

PREVIOUS: dict[str, Any] = {"evaluation": {"baseline": "Previous"}}


def record(revision: int, training: int | None = None, published: bool = True) -> RevisionRecord:
    return RevisionRecord(
        revision=revision,
        phase=Phase.SUCCEEDED,
        spec_digest=DIGEST,
        artifact=ArtifactStatus(uri=f"s3://adapters/r{revision}", digest=DIGEST) if published else None,
        training=TrainingStatus(revision=revision if training is None else training, spec_digest=DIGEST),
    )


def status(revision: int, *history: RevisionRecord, training: int | None = None) -> FineTuneJobStatus:
    own = TrainingStatus(revision=revision if training is None else training, spec_digest=DIGEST)
    return FineTuneJobStatus(revision=revision, spec_digest=DIGEST, training=own, history=history)


@pytest.mark.parametrize(
    ("found", "revision"),
    [
        (status(1), None),
        (status(2, record(1)), 1),
        (status(3, record(1), record(2)), 2),
        (status(3, record(1), record(2, published=False)), 1),
        (status(2, record(1), training=1), None),
        (status(3, record(1), record(2), training=2), 1),
        (status(4, record(1), record(3, training=2), record(2)), 2),
        (status(1, record(2)), None),
        (status(4, record(3), record(1)), 1),
    ],
    ids=[
        "first",
        "second",
        "last",
        "rejected",
        "same weights",
        "evaluated again",
        "returned",
        "to the first",
        "from 1",
    ],
)
def test_it_is_the_last_one_that_was_published_with_other_weights(
    found: FineTuneJobStatus, revision: int | None
) -> None:
    previous = previous_of(a_job(**PREVIOUS).spec, found)
    assert (previous and previous.revision) == revision
    if previous:
        assert (previous.uri, previous.digest) == (f"s3://adapters/r{revision}", DIGEST)


def test_other_baselines_and_adapters_have_none() -> None:
    found = status(2, record(1))
    assert previous_of(a_job().spec, found) is None
    model = {"uri": "hf://owner/encoder", "adapter": {"uri": "s3://adapters/other"}}
    assert previous_of(a_job(model=model, **PREVIOUS).spec, found) is None


def test_stages_are_told_which_one() -> None:
    job = a_job(**PREVIOUS).model_copy(update={"status": status(1, record(1))})
    (run,) = plan(job, Observed(), NOON).start
    assert (run.id.stage, run.id.revision) == (Stage.PREPARE, 2)
    assert run.previous is not None
    assert run.config().previous == run.previous
    assert run.previous.uri == "s3://adapters/r1"
    (other,) = plan(a_job(status(1, record(1))), Observed(), NOON).start
    assert other.config().previous is None
