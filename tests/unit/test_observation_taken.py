"""Who has the name that a child needs, and what to do about it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_core import names
from finetune_operator.observation.taken import is_own, owner_of_name
from tests.builders import an_identity
from tests.kube_objects import a_child

JOB = an_identity()


def taken(**metadata: Any) -> str:
    existing = {"kind": "Job", "metadata": {"name": "intents-r1-train-1", "namespace": "team-a", **metadata}}
    assert not is_own(existing, JOB)
    return owner_of_name(existing, JOB).removeprefix("Job intents-r1-train-1 already exists and is not owned by this ")


def owner(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "name": name, "uid": "uid-9", "controller": True}]


def test_its_own_child_is_recognised() -> None:
    assert is_own(a_child(Stage.TRAIN), JOB)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"ownerReferences": owner("FineTuneJob", "intents")}, "but by a deleted one of the same name. It starts when"),
        (
            {"ownerReferences": owner("CronJob", "nightly")},
            "but by CronJob nightly. Rename this FineTuneJob, or delete",
        ),
        ({"labels": {**names.MANAGED_LABELS, names.JOB_LABEL: "intents"}}, "it is an orphan of one of the same name"),
        ({"annotations": {"meta.helm.sh/release-name": "web"}}, "but by the Helm release web. Rename this FineTuneJob"),
        ({"managedFields": [{"manager": "kubectl-create"}]}, "kubectl-create created it. Delete it, or rename this"),
        ({}, "FineTuneJob. Delete it, or rename this FineTuneJob."),
    ],
)
def test_the_owner_of_a_name_is_named(metadata: dict[str, Any], expected: str) -> None:
    assert expected in taken(**metadata)
