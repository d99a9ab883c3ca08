"""Storage fails: training waits or is told off, and nothing is ever published by half."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster import services
from tests.cluster.curves import long_job
from tests.cluster.layout import MACHINE_ADDRESS
from tests.cluster.node import node_of
from tests.cluster.scenarios import played
from tests.cluster.tenant import Tenant, classification, hidden, says, training_step
from tests.cluster.throttle import Throttle

OUTAGE_SECONDS = 60
LONG_STEPS = 400
"""So many that it trains when the other job publishes."""

Status = dict[str, Any]


def artifact(tenant: Tenant, name: str, bucket: str = "adapters") -> Path:
    return services.BUCKETS / bucket / tenant.name / name / "r1" / "artifact"


@pytest.mark.usefixtures("alone")
def test_down_during_checkpoint_and_during_publish(tenant: Tenant) -> None:
    tenant.apply("publishing", classification(distributed={"workers": 1}))
    wait_until(lambda: stage_or_none(tenant, "publishing") in ("train", "evaluate"), "it trains", 300, 0.1)
    tenant.apply("saving", long_job(training={"maxSteps": LONG_STEPS}))
    wait_until(lambda: tenant.pods("publishing", "publish"), "there is a pod to publish", 300, 0.05)
    services.S3.kill()
    time.sleep(OUTAGE_SECONDS)  # An outage of so long is what is tested.
    assert not (artifact(tenant, "publishing") / "manifest.json").exists()
    assert tenant.status("publishing")["phase"] not in ("Succeeded", "Failed")
    services.S3.again(services.s3_ready)
    assert tenant.until_succeeded("publishing")["artifact"]["digest"]
    status = tenant.until_trained("saving")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (1, 0)
    assert [point["step"] for point in tenant.curve("saving")] == list(range(1, LONG_STEPS + 1))


def stage_or_none(tenant: Tenant, name: str) -> str | None:
    """The stage that runs."""
    phases = {"Preparing": "prepare", "Training": "train", "Evaluating": "evaluate", "Publishing": "publish"}
    return phases.get(tenant.status(name).get("phase", ""))


def credentials_are_taken_away(tenant: Tenant, name: str) -> Status:
    tenant.secret("writer", services.CREDENTIALS)
    output = {"uri": "s3://adapters", "secretRef": {"name": "writer"}}
    tenant.apply(name, classification(distributed={"workers": 1}, output=output))
    tenant.worker(name, 0, "evaluate")
    tenant.secret("writer", services.CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": "another"})
    return tenant.until_over(name)


def bucket_goes(tenant: Tenant, name: str) -> Status:
    services.make_bucket("short-lived")
    output = {"uri": "s3://short-lived", "secretRef": {"name": "s3"}}
    tenant.apply(name, classification(distributed={"workers": 1}, output=output))
    tenant.worker(name, 0)
    with hidden("short-lived"):
        return tenant.until_over(name)


def storage_is_slow(tenant: Tenant, name: str) -> Status:
    with Throttle(MACHINE_ADDRESS, (MACHINE_ADDRESS, services.S3_PORT), bytes_a_second=300_000) as slow:
        tenant.secret("slow", services.CREDENTIALS | {"AWS_ENDPOINT_URL": slow.url})
        output = {"uri": "s3://adapters", "secretRef": {"name": "slow"}}
        tenant.apply(name, classification(distributed={"workers": 1}, output=output))
        return tenant.until_succeeded(name)


def disk_fills_up(tenant: Tenant, name: str) -> Status:
    tenant.apply(name, long_job(training={"maxSteps": 5000}))
    assert training_step(tenant.until_step(name, 1)) >= 1
    pod = tenant.worker(name, 0)
    with (node_of(pod).volume(pod, "workspace") / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, 5 * 2**30)
    return tenant.until_over(name)


@pytest.fixture(scope="module")
def ends(tenant: Tenant) -> dict[str, Future[Status]]:
    """How jobs end whose storage fails in ways that other jobs do not notice."""
    scenarios = {
        "refused": credentials_are_taken_away,
        "homeless": bucket_goes,
        "patient": storage_is_slow,
        "full": disk_fills_up,
    }
    return played({name: partial(scenario, tenant) for name, scenario in scenarios.items()})


def test_credentials_that_are_taken_away_before_publish(tenant: Tenant, ends: dict[str, Future[Status]]) -> None:
    status = ends["refused"].result()
    assert (status["failure"]["reason"], status["failure"]["stage"]) == ("PermissionDenied", "publish")
    assert "s3://adapters" in says(status)
    assert not artifact(tenant, "refused").exists()


def test_bucket_that_is_gone(ends: dict[str, Future[Status]]) -> None:
    status = ends["homeless"].result()
    assert status["failure"]["reason"] == "NotFound"
    assert "short-lived" in says(status)


def test_slow_storage(tenant: Tenant, ends: dict[str, Future[Status]]) -> None:
    assert stage(ends["patient"].result(), "train")["attempt"] == 1
    assert (artifact(tenant, "patient") / "manifest.json").exists()


def test_disk_of_the_pod_is_full(tenant: Tenant, ends: dict[str, Future[Status]]) -> None:
    status = ends["full"].result()
    assert status["failure"]["reason"] == "DiskFull"
    assert "workspace" in says(status)
    assert not artifact(tenant, "full").exists()
