"""Suspend a job while it trains, and resume it with fewer workers, then with more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.desk import condition, stage
from tests.cluster.cluster import kubectl
from tests.cluster.curves import assert_same_curve, long_job
from tests.cluster.tenant import SLOW_CPU, Tenant

Status = dict[str, Any]


class ResizedJob:
    """A job that is suspended twice and resumed with a different number of workers each time."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self.name = name
        tenant.apply(name, long_job())
        self.reached: list[int] = []
        self.resumed: list[int] = []
        self.suspended: list[Status] = []
        self.rows: list[list[str]] = []
        for workers, step in ((1, 30), (2, 1)):
            self.reached.append(tenant.until_reported_step(name, step))
            tenant.change(name, suspend=True)
            self.suspended.append(
                tenant.until(name, lambda status: status["phase"] == "Suspended", "the job is suspended")
            )
            assert stage(self.suspended[-1], "train")["state"] == "Pending", (
                f"{name} finished training before it was suspended"
            )
            self.left = [pod for pod in tenant.pods(name, "train") if pod["status"]["phase"] == "Running"]
            self.rows.append(kubectl("get", "ftj", name, "-n", tenant.name, "--no-headers").split())
            tenant.change(name, suspend=False, distributed={"workers": workers})
            self.resumed.append(tenant.until_reported_step(name, 1))
        self.status = tenant.until_trained(name)


@pytest.fixture(scope="module")
def resized(tenant: Tenant) -> ResizedJob:
    tenant.limit("LimitRange", SLOW_CPU)
    return ResizedJob(tenant, "resized")


def test_resuming_with_a_different_number_of_workers_continues_the_loss_curve(
    tenant: Tenant, resized: ResizedJob, undisturbed: list[dict[str, Any]]
) -> None:
    assert all(resumed >= reached for reached, resumed in zip(resized.reached, resized.resumed, strict=True))
    assert_same_curve(tenant, resized.name, undisturbed)
    assert resized.status["revision"] == 1
    assert stage(resized.status, "train")["restarts"] == 0


def test_a_suspended_job_runs_no_pods_and_shows_its_checkpoint(resized: ResizedJob) -> None:
    assert resized.left == []
    assert [row[1] for row in resized.rows] == ["Suspended", "Suspended"]
    for status in resized.suspended:
        assert condition(status, "Reconciling")["status"] == "False"
        assert status["checkpoint"]["step"] > 0
