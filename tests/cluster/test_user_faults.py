"""A condition names a user's error within 30 s, and no job waits for ever or stays on a broken node."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.cluster.faults import REPORTED_WITHIN_SECONDS, Fault
from tests.cluster.node import NODES
from tests.cluster.scenarios import run_scenarios
from tests.cluster.sharing import Turns
from tests.cluster.tenant import Tenant, classification

GPUS = {"workers": 1, "gpusPerWorker": 8}


@pytest.fixture(scope="module")
def faults(make_tenant: Callable[[], Tenant]) -> dict[str, Future[Fault]]:
    team, quota, bounds = make_tenant(), make_tenant(), make_tenant()
    quota.limit("ResourceQuota", {"hard": {"pods": "0"}})
    bounds.limit("LimitRange", {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]})
    nowhere = {"train": {"uri": "s3://inputs/nothing.jsonl", "secretRef": {"name": "s3"}}}
    scenarios: dict[str, Callable[[str], Fault]] = {
        "no-secret": lambda name: Fault(
            team, name, "prepare", output={"uri": "s3://adapters", "secretRef": {"name": "nobodys"}}
        ),
        "no-data": lambda name: Fault(team, name, "prepare", dataset=nowhere),
        "no-gpus": lambda name: Fault(team, name, "train", distributed=GPUS),
        "no-quota": lambda name: Fault(quota, name, "prepare"),
        "not-allowed": lambda name: Fault(bounds, name, "prepare"),
    }
    with Turns("operator").together():  # Without an operator, the status would be late.
        return run_scenarios(scenarios)


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
def test_a_job_that_cannot_start_reports_the_cause_within_30_s_and_fails(
    faults: dict[str, Future[Fault]], name: str, reason: str, words: str
) -> None:
    fault = faults[name].result()
    assert words in fault.message
    assert fault.seconds < REPORTED_WITHIN_SECONDS
    assert fault.status["phase"] == "Failed"
    assert fault.status["failure"]["reason"] == reason
    assert words in fault.status["failure"]["message"]


def test_the_next_attempt_avoids_a_node_whose_gpus_torch_does_not_find(make_tenant: Callable[[], Tenant]) -> None:
    team = make_tenant()
    spec = classification(distributed={"workers": 1, "gpusPerWorker": 1}, resilience={"maxRestarts": 1})
    team.apply("blind", spec)
    failure = team.until_failed("blind")["failure"]
    node_of_attempt = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in team.pods("blind", "train")}
    assert sorted(node_of_attempt.values()) == sorted(node.name for node in NODES), node_of_attempt
    assert (failure["reason"], failure["attempt"]) == ("GpuUnavailable", 2)
    assert "was given 1 GPU but torch finds none" in failure["message"]
    assert "Not retried after 1 restart (resilience.maxRestarts)." in failure["message"]
