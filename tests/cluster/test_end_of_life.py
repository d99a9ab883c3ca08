"""Jobs that are deleted, expire or lose their namespace: nothing stays but what was published."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import kubectl
from tests.cluster.curves import long_job
from tests.cluster.scenarios import played
from tests.cluster.tenant import PATIENCE_SECONDS, Object, Tenant, classification

ONE = {"workers": 1}
STAGES = ("prepare", "train", "evaluate", "publish")


def is_gone(tenant: Tenant, name: str) -> bool:
    return tenant.api.find("FineTuneJob", name, tenant.name) is None


def _has_started(pods: list[Object]) -> bool:
    return any(pod["status"]["phase"] != "Pending" for pod in pods)


def deleted_in(tenant: Tenant, stage: str) -> None:
    """Delete a job in ``stage``; returns when everything of it is gone."""
    name = f"deleted-in-{stage}"
    tenant.apply(name, classification(distributed=ONE))
    # A short one may have ended before its kubelet says that it runs.
    wait_until(lambda: _has_started(tenant.pods(name, stage)), f"{name} is in {stage}", PATIENCE_SECONDS, 0.2)
    kubectl("delete", "ftj", name, "-n", tenant.name, "--timeout=60s")
    wait_until(
        lambda: not tenant.jobs(name) and not tenant.pods(name), f"nothing is left of {name}", PATIENCE_SECONDS, 0.2
    )


def expires(tenant: Tenant) -> None:
    tenant.apply("expiring", classification(distributed=ONE, resilience={"ttlSecondsAfterFinished": 5}))
    published = tenant.revision("expiring") / "artifact" / "manifest.json"
    wait_until(published.exists, "it is published", PATIENCE_SECONDS, 0.2)
    wait_until(lambda: is_gone(tenant, "expiring"), "it expires", PATIENCE_SECONDS, 0.2)
    wait_until(lambda: not tenant.pods("expiring") and not tenant.jobs("expiring"), "nothing is left", 120, 0.2)
    assert published.exists()


def takes_too_long(tenant: Tenant) -> None:
    endless = {"maxSteps": 100_000}
    tenant.apply("late", long_job(training=endless, distributed=ONE, resilience={"activeDeadlineSeconds": 20}))
    status = tenant.until_failed("late")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert [pod for pod in tenant.pods("late") if pod["status"]["phase"] == "Running"] == []


def loses_its_namespace(tenant: Tenant) -> None:
    tenant.apply("lost", long_job())
    tenant.until_step("lost", 1)
    tenant.delete()


@pytest.fixture(scope="module")
def ends(make_tenant: Callable[[], Tenant]) -> dict[str, Future[None]]:
    team, other = make_tenant(), make_tenant()
    return played(
        {
            **{stage: lambda stage: deleted_in(team, stage) for stage in STAGES},
            "expiring": lambda _: expires(team),
            "late": lambda _: takes_too_long(team),
            "namespace": lambda _: loses_its_namespace(other),
        }
    )


@pytest.mark.parametrize("stage", STAGES)
def test_deleted_in_each_stage(ends: dict[str, Future[None]], stage: str) -> None:
    ends[stage].result()


def test_expires_and_leaves_what_was_published(ends: dict[str, Future[None]]) -> None:
    ends["expiring"].result()


def test_ends_at_its_deadline(ends: dict[str, Future[None]]) -> None:
    ends["late"].result()


def test_namespace_deleted_in_mid_run(ends: dict[str, Future[None]]) -> None:
    ends["namespace"].result()
