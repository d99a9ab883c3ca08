"""Storage is slow, or a disk is full: the job is delayed or fails, and never publishes a partial artifact."""

from __future__ import annotations

import os
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from tests.apiserver.desk import stage
from tests.cluster import services
from tests.cluster.curves import long_job
from tests.cluster.layout import MACHINE_ADDRESS
from tests.cluster.node import node_of
from tests.cluster.scenarios import run_scenarios
from tests.cluster.tenant import Tenant, classification, condition_message
from tests.cluster.throttle import Throttle

Status = dict[str, Any]


def storage_is_slow(tenant: Tenant, name: str) -> Status:
    with Throttle(MACHINE_ADDRESS, (MACHINE_ADDRESS, services.S3_PORT), bytes_a_second=300_000) as slow:
        tenant.secret("slow", services.CREDENTIALS | {"AWS_ENDPOINT_URL": slow.url})
        output = {"uri": "s3://adapters", "secretRef": {"name": "slow"}}
        tenant.apply(name, classification(distributed={"workers": 1}, output=output))
        return tenant.until_succeeded(name)


def disk_fills_up(tenant: Tenant, name: str) -> Status:
    endless = {"maxSteps": 100_000, "checkpoint": {"everySteps": 1000}}  # Kubelets measure disks only at intervals.
    tenant.apply(name, long_job(training=endless, distributed={"workers": 1, "zero": {"stage": 0}}))
    tenant.until_step(name, 1)
    pod = tenant.worker(name, 0)
    with (node_of(pod).volume(pod, "workspace") / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, 5 * 2**30)
    return tenant.until_failed(name)


@pytest.fixture(scope="module")
def ends(tenant: Tenant) -> dict[str, Future[Status]]:
    """The results of jobs with storage faults that do not affect other jobs."""
    scenarios = {"patient": storage_is_slow, "full": disk_fills_up}
    return run_scenarios({name: partial(scenario, tenant) for name, scenario in scenarios.items()})


def test_slow_storage_only_delays_the_job(tenant: Tenant, ends: dict[str, Future[Status]]) -> None:
    assert stage(ends["patient"].result(), "train")["attempt"] == 1
    assert (tenant.revision("patient") / "artifact" / "manifest.json").exists()


def test_a_full_disk_fails_the_job_and_publishes_nothing(tenant: Tenant, ends: dict[str, Future[Status]]) -> None:
    status = ends["full"].result()
    assert status["failure"]["reason"] == "DiskFull"
    assert "workspace" in condition_message(status)
    assert not (tenant.revision("full") / "artifact").exists()
