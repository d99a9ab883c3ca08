"""Jobs that are deleted, expire or lose their namespace or their operator: nothing stays but what was published."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import NAMESPACE, RELEASE, helm, install_chart, kubectl
from tests.cluster.curves import long_job
from tests.cluster.scenarios import played
from tests.cluster.tenant import Tenant, classification, training_step

pytestmark = pytest.mark.lengthy

ONE = {"workers": 1}
STAGES = ("prepare", "train", "evaluate", "publish")


def is_gone(tenant: Tenant, name: str) -> bool:
    return tenant.api.find("FineTuneJob", name, tenant.name) is None


def deleted_in(tenant: Tenant, stage: str) -> None:
    """Delete a job while a pod of ``stage`` runs; returns when everything of it is gone."""
    name = f"deleted-in-{stage}"
    tenant.apply(name, classification(distributed=ONE))
    tenant.worker(name, 0, stage)
    kubectl("delete", "ftj", name, "-n", tenant.name, "--timeout=60s")
    wait_until(lambda: not tenant.jobs(name) and not tenant.pods(name), f"nothing is left of {name}", 120, 0.2)


@pytest.fixture(scope="module")
def deletions(tenant: Tenant) -> dict[str, Future[None]]:
    return played({stage: lambda stage: deleted_in(tenant, stage) for stage in STAGES})


@pytest.mark.parametrize("stage", STAGES)
def test_deleted_in_each_stage(deletions: dict[str, Future[None]], stage: str) -> None:
    deletions[stage].result()


def test_expires_and_leaves_what_was_published(tenant: Tenant) -> None:
    tenant.apply("expiring", classification(distributed=ONE, resilience={"ttlSecondsAfterFinished": 5}))
    published = tenant.revision("expiring") / "artifact" / "manifest.json"
    wait_until(published.exists, "it is published", 300, 0.2)
    wait_until(lambda: is_gone(tenant, "expiring"), "it expires", 60, 0.2)
    wait_until(lambda: not tenant.pods("expiring") and not tenant.jobs("expiring"), "nothing is left", 60, 0.2)
    assert published.exists()


def test_ends_at_its_deadline(tenant: Tenant) -> None:
    tenant.apply("late", long_job(training={"maxSteps": 5000}, resilience={"activeDeadlineSeconds": 25}))
    status = tenant.until_over("late")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert [pod for pod in tenant.pods("late") if pod["status"]["phase"] == "Running"] == []


def test_namespace_deleted_in_mid_run(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.apply("lost", long_job())
    tenant.until_step("lost", 1)
    tenant.delete()


def test_chart_uninstalled_with_a_job_running(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.apply("orphaned", long_job())
    reached = training_step(tenant.until_step("orphaned", 20))
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")
    try:
        assert not is_gone(tenant, "orphaned")
        trained = tenant.revision("orphaned") / "trained" / "manifest.json"
        wait_until(trained.exists, f"training goes on from step {reached} to its end", 300, 0.2)
        kubectl("delete", "ftj", "orphaned", "-n", tenant.name, "--timeout=60s")
        wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
        assert Path(trained).exists()
    finally:
        install_chart()
