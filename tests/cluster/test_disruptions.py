"""Pods are deleted, or drained from their node: the loss curve is unchanged, and no restart is counted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.cluster.cluster import kubectl
from tests.cluster.curves import EVERY, assert_same_curve
from tests.cluster.disturbed import Disturbed
from tests.cluster.scenarios import run_scenarios
from tests.cluster.tenant import JOB_LABEL, Tenant


def worker_0_is_deleted(tenant: Tenant, name: str) -> None:
    """Worker 0 hosts the rendezvous."""
    tenant.delete_pod(tenant.worker(name, 0))


def the_node_is_drained(tenant: Tenant, name: str) -> None:
    """Drain only the pods of this job, because other tests use the node too."""
    selector = f"--pod-selector={JOB_LABEL}={name}"
    node = tenant.worker(name, 1)["spec"]["nodeName"]
    kubectl("drain", node, selector, "--delete-emptydir-data", "--force", "--timeout=120s")
    kubectl("uncordon", node)


SCENARIOS: dict[str, Callable[[Tenant, str], None]] = {
    "worker-0-deleted": worker_0_is_deleted,
    "drained": the_node_is_drained,
}


@pytest.fixture(scope="module")
def ends(tenant: Tenant) -> dict[str, Future[Disturbed]]:
    return run_scenarios(
        {name: lambda name: Disturbed(tenant, name, SCENARIOS[name], max_restarts=0) for name in SCENARIOS}
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_resumes_from_the_newest_checkpoint_after_a_disruption(
    tenant: Tenant, ends: dict[str, Future[Disturbed]], name: str, undisturbed: list[dict[str, Any]]
) -> None:
    end = ends[name].result()
    assert end.resumed >= end.reached - EVERY
    assert_same_curve(tenant, name, undisturbed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_disruption_is_not_counted_as_a_restart(ends: dict[str, Future[Disturbed]], name: str) -> None:
    assert ends[name].result().restarts == 0


def test_a_drained_pod_writes_a_checkpoint_before_it_ends(tenant: Tenant, ends: dict[str, Future[Disturbed]]) -> None:
    end = ends["drained"].result()
    # On the stop request, it wrote a checkpoint of the current step, so no step is lost.
    assert end.resumed > end.reached
    events = [event for event in tenant.events("drained") if event["reason"] == "Disrupted"]
    assert events, tenant.events("drained")
