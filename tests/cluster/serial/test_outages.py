"""Storage, a kubelet or the control plane is away for a minute: training goes on, and nothing is published by half."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster import control, services
from tests.cluster.curves import long_job
from tests.cluster.node import all_ready, node_of
from tests.cluster.tenant import PATIENCE_SECONDS, SLOWLY, Object, Tenant, classification, own_step

OUTAGE_SECONDS = 60
STEPS = 8000
"""So many that training has not ended when the last outage is over."""
NAME = "going-on"


@pytest.fixture(scope="module")
def training(make_tenant: Callable[[], Tenant]) -> Tenant:
    """The team of one training that goes on through every outage of this module.

    On one worker and without ZeRO, of which a step on such a small model would take twice as long.
    """
    tenant = make_tenant()
    tenant.limit("LimitRange", SLOWLY)
    settings = {"maxSteps": STEPS, "checkpoint": {"everySteps": 100}}
    tenant.apply(NAME, long_job(distributed={"workers": 1, "zero": {"stage": 0}}, training=settings))
    tenant.until_own_step(NAME, 20)
    return tenant


def outage(pod: Object) -> int:
    """Wait as long as the outage lasts; returns the step that training has reached in the meantime."""
    end, reached = time.monotonic() + OUTAGE_SECONDS, 0
    while time.monotonic() < end:
        reached = max(reached, own_step(pod))
        time.sleep(1)
    return reached


def assert_first_attempt(status: Object) -> None:
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (1, 0)


def test_storage_down_during_publish_and_checkpoints_and_a_kubelet_with_it(training: Tenant, tenant: Tenant) -> None:
    pod = training.worker(NAME, 0)
    tenant.apply("publishing", classification(distributed={"workers": 1}))
    wait_until(lambda: tenant.pods("publishing", "publish"), "there is a pod to publish", PATIENCE_SECONDS, 0.05)
    before = own_step(pod)
    services.S3.kill()
    node_of(pod).kubelet.kill()
    assert outage(pod) > before
    assert not (tenant.revision("publishing") / "artifact" / "manifest.json").exists()
    assert tenant.status("publishing")["phase"] not in ("Succeeded", "Failed")
    services.S3.again(services.s3_ready)
    node_of(pod).kubelet.again()
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    node_of(pod).offer_gpus()
    assert tenant.until_succeeded("publishing")["artifact"]["digest"]
    assert_first_attempt(training.until_checkpoint(NAME, before + 1))


def test_api_server_down_and_etcd_restarted(training: Tenant, alone: ExitStack) -> None:
    pod = training.worker(NAME, 0)
    before = own_step(pod)
    control.APISERVER.kill()
    control.ETCD.kill()
    reached = outage(pod)
    assert reached > before
    control.ETCD.again(control.etcd_ready)
    control.APISERVER.again(control.apiserver_ready)
    for daemon in (control.CONTROLLERS, control.SCHEDULER):
        daemon.again()  # They end by themselves when they are kept waiting.
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    alone.close()  # This was the last to disturb everybody.
    # Its end is not waited for: on its part of a core that takes minutes, and the soak comes next.
    status = training.until_checkpoint(NAME, reached + 1)
    assert_first_attempt(status)
    step = status["checkpoint"]["step"]
    assert training.steps_of_checkpoint(NAME, step) == list(range(1, step + 1))
