"""Suspend in mid-training, and go on with fewer workers, and then with more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.desk import condition, stage
from tests.cluster.cluster import kubectl
from tests.cluster.curves import assert_same, long_job
from tests.cluster.tenant import SLOWLY, Tenant

Status = dict[str, Any]


class Held:
    """A job that is suspended twice, and goes on with another number of workers each time."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self.name = name
        tenant.apply(name, long_job())
        self.reached: list[int] = []
        self.resumed: list[int] = []
        self.held: list[Status] = []
        self.rows: list[list[str]] = []
        for workers, step in ((1, 30), (2, 1)):
            self.reached.append(tenant.until_own_step(name, step))
            tenant.change(name, suspend=True)
            self.held.append(tenant.until(name, lambda status: status["phase"] == "Suspended", "it is held"))
            assert stage(self.held[-1], "train")["state"] == "Pending", f"{name} was trained before it was held"
            self.left = [pod for pod in tenant.pods(name, "train") if pod["status"]["phase"] == "Running"]
            self.rows.append(kubectl("get", "ftj", name, "-n", tenant.name, "--no-headers").split())
            tenant.change(name, suspend=False, distributed={"workers": workers})
            self.resumed.append(tenant.until_own_step(name, 1))
        self.status = tenant.until_trained(name)


@pytest.fixture(scope="module")
def held(tenant: Tenant) -> Held:
    tenant.limit("LimitRange", SLOWLY)
    return Held(tenant, "resized")


def test_goes_on_where_it_stopped_with_another_number_of_workers(
    tenant: Tenant, held: Held, undisturbed: list[dict[str, Any]]
) -> None:
    assert all(resumed >= reached for reached, resumed in zip(held.reached, held.resumed, strict=True))
    assert_same(tenant, held.name, undisturbed)
    assert held.status["revision"] == 1
    assert stage(held.status, "train")["restarts"] == 0


def test_holds_nothing_while_it_is_suspended_and_can_be_read(held: Held) -> None:
    assert held.left == []
    assert [row[1] for row in held.rows] == ["Suspended", "Suspended"]
    for status in held.held:
        assert condition(status, "Reconciling")["status"] == "False"
        assert status["checkpoint"]["step"] > 0
