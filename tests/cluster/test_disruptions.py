"""Pods that are deleted, or drained with their node: training ends as if nothing had been, and nothing counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.cluster.cluster import kubectl
from tests.cluster.curves import EVERY, assert_same
from tests.cluster.disturbed import Disturbed
from tests.cluster.scenarios import played
from tests.cluster.tenant import JOB_LABEL, Tenant


def worker_0_is_deleted(tenant: Tenant, name: str) -> None:
    """The one that the others meet at."""
    tenant.delete_pod(tenant.worker(name, 0))


def the_node_is_drained(tenant: Tenant, name: str) -> None:
    """Only of the pods of this job: others live here too."""
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
    return played({name: lambda name: Disturbed(tenant, name, SCENARIOS[name], max_restarts=0) for name in SCENARIOS})


@pytest.mark.parametrize("name", SCENARIOS)
def test_goes_on_from_the_newest_checkpoint(
    tenant: Tenant, ends: dict[str, Future[Disturbed]], name: str, undisturbed: list[dict[str, Any]]
) -> None:
    end = ends[name].result()
    assert end.resumed >= end.reached - EVERY
    assert_same(tenant, name, undisturbed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_the_job_could_not_do_better_uses_up_no_restart(ends: dict[str, Future[Disturbed]], name: str) -> None:
    assert ends[name].result().restarts == 0


def test_a_disruption_leaves_a_whole_checkpoint(tenant: Tenant, ends: dict[str, Future[Disturbed]]) -> None:
    end = ends["drained"].result()
    # Asked to stop, it wrote a checkpoint where it was: nothing at all is lost.
    assert end.resumed > end.reached
    told = [event for event in tenant.events("drained") if event["reason"] == "Disrupted"]
    assert told, tenant.events("drained")
