"""What a user gets wrong is a sentence in a condition within 30 s, and no job hangs for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.cluster.faults import WITHIN_SECONDS, Fault
from tests.cluster.scenarios import played
from tests.cluster.tenant import Tenant

GPUS = {"workers": 1, "gpusPerWorker": 8}


@pytest.fixture(scope="module")
def faults(make_tenant: Callable[[], Tenant]) -> dict[str, Future[Fault]]:
    team, quota, bounds = make_tenant(), make_tenant(), make_tenant()
    quota.limit("ResourceQuota", {"hard": {"pods": "0"}})
    bounds.limit("LimitRange", {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]})
    nowhere = {"train": {"uri": "s3://inputs/nothing.jsonl", "secretRef": {"name": "s3"}}}
    return played(
        {
            "no-secret": lambda name: Fault(
                team, name, "prepare", output={"uri": "s3://adapters", "secretRef": {"name": "nobodys"}}
            ),
            "no-data": lambda name: Fault(team, name, "prepare", dataset=nowhere),
            "no-gpus": lambda name: Fault(team, name, "train", distributed=GPUS),
            "no-quota": lambda name: Fault(quota, name, "prepare"),
            "not-allowed": lambda name: Fault(bounds, name, "prepare"),
        }
    )


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("no-secret", "SetupFailed", 'secret "nobodys" not found'),
        ("no-data", "NotFound", "s3://inputs/nothing.jsonl"),
        ("no-gpus", "Unschedulable", "nvidia.com/gpu"),
        ("no-quota", "QuotaExceeded", "exceeded quota"),
        ("not-allowed", "Forbidden", "minimum memory usage per Container is 1Gi"),
    ],
)
def test_is_told_in_time_and_ends(faults: dict[str, Future[Fault]], name: str, reason: str, words: str) -> None:
    fault = faults[name].result()
    assert words in fault.sentence
    assert fault.after < WITHIN_SECONDS
    assert fault.status["phase"] == "Failed"
    assert fault.status["failure"]["reason"] == reason
    assert words in fault.status["failure"]["message"]
