"""Storage, a kubelet or the control plane is down for a minute: training continues, nothing is published partially."""

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
from tests.cluster.tenant import SLOW_CPU, STAGE_TIMEOUT_SECONDS, Object, Tenant, classification, reported_step

OUTAGE_SECONDS = 60
STEPS = 8000
"""Enough that training outlasts the last outage."""
NAME = "going-on"


@pytest.fixture(scope="module")
def training(make_tenant: Callable[[], Tenant]) -> Tenant:
    """The team of one job that trains through every outage of this module.

    It has one worker and no ZeRO, which would double the duration of a step of such a small model.
    """
    tenant = make_tenant()
    tenant.limit("LimitRange", SLOW_CPU)
    settings = {"maxSteps": STEPS, "checkpoint": {"everySteps": 100}}
    tenant.apply(NAME, long_job(distributed={"workers": 1, "zero": {"stage": 0}}, training=settings))
    tenant.until_reported_step(NAME, 20)
    return tenant


def outage(pod: Object) -> int:
    """Wait for the duration of the outage, and return the step that training has reached."""
    end, reached = time.monotonic() + OUTAGE_SECONDS, 0
    while time.monotonic() < end:
        reached = max(reached, reported_step(pod))
        time.sleep(1)
    return reached


def assert_first_attempt(status: Object) -> None:
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (1, 0)


def test_training_and_publish_survive_an_outage_of_storage_and_a_kubelet(training: Tenant, tenant: Tenant) -> None:
    pod = training.worker(NAME, 0)
    tenant.apply("publishing", classification(distributed={"workers": 1}))
    wait_until(lambda: tenant.pods("publishing", "publish"), "publish has a pod", STAGE_TIMEOUT_SECONDS, 0.05)
    before = reported_step(pod)
    services.S3.kill()
    node_of(pod).kubelet.kill()
    assert outage(pod) > before
    assert not (tenant.revision("publishing") / "artifact" / "manifest.json").exists()
    assert tenant.status("publishing")["phase"] not in ("Succeeded", "Failed")
    services.S3.restart(services.s3_ready)
    node_of(pod).kubelet.restart()
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    node_of(pod).offer_gpus()
    assert tenant.until_succeeded("publishing")["artifact"]["digest"]
    assert_first_attempt(training.until_checkpoint(NAME, before + 1))


def test_training_survives_an_outage_of_api_server_and_etcd(training: Tenant, alone: ExitStack) -> None:
    pod = training.worker(NAME, 0)
    before = reported_step(pod)
    control.APISERVER.kill()
    control.ETCD.kill()
    reached = outage(pod)
    assert reached > before
    control.ETCD.restart(control.etcd_ready)
    control.APISERVER.restart(control.apiserver_ready)
    for daemon in (control.CONTROLLERS, control.SCHEDULER):
        daemon.restart()  # They exit if the API server is down for too long.
    wait_until(all_ready, "the nodes are ready", 120, 0.5)
    alone.close()  # The last test that disturbs all others.
    # Do not wait for the end of training: it takes minutes on a fraction of a core, and the soak follows.
    status = training.until_checkpoint(NAME, reached + 1)
    assert_first_attempt(status)
    step = status["checkpoint"]["step"]
    assert training.steps_of_checkpoint(NAME, step) == list(range(1, step + 1))
