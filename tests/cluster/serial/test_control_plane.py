"""The control plane and the node fail for a while: what trains goes on, and what was lost is made up for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster import control
from tests.cluster.cluster import NAMESPACE, kubectl
from tests.cluster.curves import assert_same, long_job
from tests.cluster.node import all_ready, node_of
from tests.cluster.tenant import Tenant, own_step, training_step

OUTAGE_SECONDS = 60
STEPS = 50_000
"""So many that training outlasts all outages."""


def assert_untouched(tenant: Tenant, name: str) -> None:
    train = stage(tenant.status(name), "train")
    assert (train["state"], train["attempt"], train["restarts"]) == ("Running", 1, 0)


def outage() -> None:
    time.sleep(OUTAGE_SECONDS)  # An outage of so long is what is tested.


@pytest.fixture(scope="class")
def training(tenant: Tenant) -> Iterator[str]:
    """A job that trains for minutes; its name."""
    name = "long"
    # One worker: two would keep both cores busy all the while.
    training = {"maxSteps": STEPS, "checkpoint": {"everySteps": 500}}
    tenant.apply(name, long_job(distributed={"workers": 1}, training=training))
    tenant.until_step(name, 20)
    yield name
    tenant.api.delete("FineTuneJob", name, tenant.name)


class TestOutages:
    def test_api_server_down_and_etcd_restarted(self, tenant: Tenant, training: str) -> None:
        pod = tenant.worker(training, 0)
        before = own_step(pod)
        control.APISERVER.kill()
        control.ETCD.kill()
        outage()
        assert own_step(pod) > before
        control.ETCD.again(control.etcd_ready)
        control.APISERVER.again(control.apiserver_ready)
        for daemon in (control.CONTROLLERS, control.SCHEDULER):
            daemon.again()  # They end by themselves when they are kept waiting.
        wait_until(all_ready, "the nodes are ready", 120, 0.5)
        assert training_step(tenant.until_step(training, before + 1)) > before
        assert_untouched(tenant, training)

    def test_kubelet_down(self, tenant: Tenant, training: str) -> None:
        pod = tenant.worker(training, 0)
        before = own_step(pod)
        node = node_of(pod)
        node.kubelet.kill()
        outage()
        assert own_step(pod) > before
        node.kubelet.again()
        wait_until(all_ready, "the nodes are ready", 120, 0.5)
        node.offer_gpus()
        assert_untouched(tenant, training)


def test_node_rebooted(tenant: Tenant, undisturbed: list[dict[str, Any]]) -> None:
    tenant.apply("rebooted", long_job())
    tenant.until_checkpoint("rebooted", 40)
    node = node_of(tenant.worker("rebooted", 1))
    node.crash()
    node.boot()
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    node.offer_gpus()
    status = tenant.until_trained("rebooted")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 0)
    assert_same(tenant, "rebooted", undisturbed)


def test_node_lost_for_good(tenant: Tenant, undisturbed: list[dict[str, Any]]) -> None:
    """Nobody ever tells how the pods on it ended: the gang is replaced all the same."""
    here = kubectl("get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[0].spec.nodeName}")
    kubectl("cordon", here)
    tenant.apply("lost", long_job(resilience={"stallTimeoutSeconds": 30}))
    tenant.until_checkpoint("lost", 20)
    node = node_of(tenant.worker("lost", 0))
    kubectl("uncordon", here)
    node.crash()
    try:
        assert stage(tenant.until_trained("lost"), "train")["attempt"] == 2
    finally:
        node.boot()
        wait_until(all_ready, "the nodes are ready", 120, 0.5)
        node.offer_gpus()
    assert_same(tenant, "lost", undisturbed)
