"""Suspend in mid-training, and go on: with as many workers, with fewer, with more."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from tests.apiserver.desk import condition, stage
from tests.cluster.cluster import kubectl
from tests.cluster.curves import assert_same, long_job
from tests.cluster.scenarios import played
from tests.cluster.tenant import SLOWLY, Tenant

Status = dict[str, Any]


STEPS_OF_ZERO_0 = 400
"""Of which a step takes a third of the time."""


def resized(zero: int) -> dict[str, Any]:
    distributed = {"workers": 2, "gpusPerWorker": 0, "zero": {"stage": zero}}
    return long_job(distributed=distributed, training={} if zero else {"maxSteps": STEPS_OF_ZERO_0})


class Held:
    """A job that is suspended twice, and goes on with another number of workers each time."""

    def __init__(self, tenant: Tenant, zero: int) -> None:
        self.name = f"zero-{zero}"
        tenant.apply(self.name, resized(zero))
        self.reached: list[int] = []
        self.resumed: list[int] = []
        self.held: list[Status] = []
        for workers, step in ((1, 30), (2, 1)):
            self.reached.append(tenant.until_own_step(self.name, step))
            tenant.change(self.name, suspend=True)
            self.held.append(tenant.until(self.name, lambda status: status["phase"] == "Suspended", "it is held"))
            assert stage(self.held[-1], "train")["state"] == "Pending", f"{self.name} was trained before it was held"
            self.left = [pod for pod in tenant.pods(self.name, "train") if pod["status"]["phase"] == "Running"]
            tenant.change(self.name, suspend=False, distributed={"workers": workers})
            self.resumed.append(tenant.until_own_step(self.name, 1))
        self.status = tenant.until_trained(self.name)


@pytest.fixture(scope="module")
def held(tenant: Tenant) -> dict[str, Future[Held]]:
    tenant.limit("LimitRange", SLOWLY)
    return played({str(zero): lambda zero: Held(tenant, int(zero)) for zero in (0, 2, 3)})


@pytest.fixture(scope="module")
def undisturbed_of_zero_0(tenant: Tenant) -> list[dict[str, Any]]:
    tenant.apply("reference", resized(0))
    tenant.until_trained("reference")
    return tenant.curve("reference")


ZERO = pytest.mark.parametrize("zero", ["0", "2", "3"])


@ZERO
def test_goes_on_where_it_stopped_with_another_number_of_workers(
    tenant: Tenant, held: dict[str, Future[Held]], zero: str, request: pytest.FixtureRequest
) -> None:
    found = held[zero].result()
    assert all(resumed >= reached for reached, resumed in zip(found.reached, found.resumed, strict=True))
    assert_same(tenant, found.name, request.getfixturevalue("undisturbed" if zero != "0" else "undisturbed_of_zero_0"))
    assert found.status["revision"] == 1
    assert stage(found.status, "train")["restarts"] == 0


@ZERO
def test_holds_nothing_while_it_is_suspended(held: dict[str, Future[Held]], zero: str) -> None:
    found = held[zero].result()
    assert found.left == []
    for status in found.held:
        assert condition(status, "Reconciling")["status"] == "False"
        assert status["checkpoint"]["step"] > 0


def test_a_suspended_job_can_be_read_and_deleted(tenant: Tenant) -> None:
    tenant.apply("kept", long_job())
    tenant.until_step("kept", 1)
    kubectl("patch", "ftj", "kept", "-n", tenant.name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    tenant.until("kept", lambda status: status["phase"] == "Suspended", "it is held")
    row = kubectl("get", "ftj", "kept", "-n", tenant.name, "--no-headers").split()
    assert row[1] == "Suspended"
    kubectl("delete", "ftj", "kept", "-n", tenant.name)
    assert tenant.api.find("FineTuneJob", "kept", tenant.name) is None
