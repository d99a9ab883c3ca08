"""Nodes reboot or are lost: training resumes."""

from __future__ import annotations

from typing import Any

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster.cluster import NAMESPACE, kubectl
from tests.cluster.curves import assert_same_curve, long_job
from tests.cluster.node import all_ready, node_of
from tests.cluster.tenant import Tenant


def test_training_resumes_after_a_node_reboot(tenant: Tenant, undisturbed: list[dict[str, Any]]) -> None:
    tenant.apply("rebooted", long_job())
    tenant.until_checkpoint("rebooted", 40)
    node = node_of(tenant.worker("rebooted", 1))
    node.crash()
    node.boot()
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    node.offer_gpus()
    status = tenant.until_trained("rebooted")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 0)
    assert_same_curve(tenant, "rebooted", undisturbed)


def test_training_moves_away_from_a_lost_node(tenant: Tenant, undisturbed: list[dict[str, Any]]) -> None:
    """The end of the pods on the node is never reported, but all workers are replaced."""
    here = kubectl("get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[0].spec.nodeName}")
    kubectl("cordon", here)
    tenant.apply("lost", long_job(resilience={"stallTimeoutSeconds": 30}))
    tenant.until_checkpoint("lost", 20)
    node = node_of(tenant.worker("lost", 0))
    kubectl("uncordon", here)
    node.crash()
    try:
        status = tenant.until_trained("lost")
        assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 0)
    finally:
        node.boot()
        wait_until(all_ready, "the nodes are ready", 120, 0.5)
        node.offer_gpus()
    assert_same_curve(tenant, "lost", undisturbed)
