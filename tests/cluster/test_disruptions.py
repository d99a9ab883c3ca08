"""Ranks that are killed, pods that are deleted, evicted or drained: training ends as if nothing had been."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.apiserver.desk import stage
from tests.cluster.cluster import kubectl
from tests.cluster.curves import EVERY, assert_same, long_job
from tests.cluster.scenarios import played
from tests.cluster.sharing import Turns
from tests.cluster.tenant import JOB_LABEL, Tenant, ranks, send, training_step

DISTURB_AT = 40


def a_rank_is_killed(tenant: Tenant, name: str) -> None:
    send(ranks(tenant.worker(name, 1))[:1], signal.SIGKILL)


def worker_1_is_deleted(tenant: Tenant, name: str) -> None:
    tenant.delete_pod(tenant.worker(name, 1))


def worker_0_is_deleted(tenant: Tenant, name: str) -> None:
    tenant.delete_pod(tenant.worker(name, 0))


def a_worker_is_evicted(tenant: Tenant, name: str) -> None:
    pod = tenant.worker(name, 1)["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": tenant.name},
    }
    tenant.api.request("POST", f"{tenant.api.path('Pod', tenant.name, pod)}/eviction", eviction)


def the_node_is_drained(tenant: Tenant, name: str) -> None:
    """Only of the pods of this job: others live here too."""
    selector = f"--pod-selector={JOB_LABEL}={name}"
    node = tenant.worker(name, 1)["spec"]["nodeName"]
    kubectl("drain", node, selector, "--delete-emptydir-data", "--force", "--timeout=120s")
    kubectl("uncordon", node)


CRASHES: dict[str, Callable[[Tenant, str], None]] = {
    "rank-killed": a_rank_is_killed,
    "worker-1-deleted": worker_1_is_deleted,
    "worker-0-deleted": worker_0_is_deleted,
}
DISRUPTIONS: dict[str, Callable[[Tenant, str], None]] = {"evicted": a_worker_is_evicted, "drained": the_node_is_drained}


class Ends:
    """How a disturbed job went on."""

    def __init__(self, tenant: Tenant, name: str, disturb: Callable[[Tenant, str], None]) -> None:
        restarts = 0 if name in DISRUPTIONS else 3
        # An operator that is not there may see only the echo of a crash, which does not count. Whose turn it is shows
        # before the training begins, which would go on, and end, while this waits.
        with Turns("operator").together():
            tenant.apply(name, long_job(resilience={"maxRestarts": restarts}))
            self.reached = training_step(tenant.until_step(name, DISTURB_AT))
            disturb(tenant, name)
            tenant.until(name, lambda status: stage(status, "train")["attempt"] == 2, "attempt 2 begins")
        self.resumed = tenant.until_own_step(name, 1)
        self.status = tenant.until_trained(name)


@pytest.fixture(scope="module")
def ends(tenant: Tenant) -> dict[str, Future[Ends]]:
    everything = CRASHES | DISRUPTIONS
    return played({name: lambda name: Ends(tenant, name, everything[name]) for name in everything})


@pytest.mark.parametrize("name", [*CRASHES, *DISRUPTIONS])
def test_goes_on_from_the_newest_checkpoint(
    tenant: Tenant, ends: dict[str, Future[Ends]], name: str, undisturbed: list[dict[str, Any]]
) -> None:
    end = ends[name].result()
    assert end.resumed >= end.reached - EVERY
    assert_same(tenant, name, undisturbed)


@pytest.mark.parametrize("name", CRASHES)
def test_only_the_crash_of_the_job_itself_counts(ends: dict[str, Future[Ends]], name: str) -> None:
    """A pod that somebody has deleted is nothing that the job could do better the next time."""
    assert stage(ends[name].result().status, "train")["restarts"] == (1 if name == "rank-killed" else 0)


@pytest.mark.parametrize("name", DISRUPTIONS)
def test_a_disruption_uses_up_no_restart_and_leaves_a_whole_checkpoint(
    tenant: Tenant, ends: dict[str, Future[Ends]], name: str
) -> None:
    end = ends[name].result()
    assert stage(end.status, "train")["restarts"] == 0
    # Asked to stop, it wrote a checkpoint where it was: nothing at all is lost.
    assert end.resumed > end.reached
    told = [event for event in tenant.events(name) if event["reason"] == "Disrupted"]
    assert told, tenant.events(name)
