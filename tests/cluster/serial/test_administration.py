"""Chart settings under which jobs cannot start, and uninstalling the chart."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import NAMESPACE, RELEASE, helm, install_chart, kubectl
from tests.cluster.curves import long_job
from tests.cluster.faults import REPORTED_WITHIN_SECONDS, Fault
from tests.cluster.scenarios import run_scenarios
from tests.cluster.tenant import STAGE_TIMEOUT_SECONDS, Tenant, training_step


@pytest.fixture(scope="module")
def faults(make_tenant: Callable[[], Tenant]) -> dict[str, Future[Fault]]:
    """Jobs under chart settings that do not work: pods that Pod Security denies, and a missing image.

    Pods of jobs meet the restricted standard unless an administrator's settings violate it, as here. Only a team whose
    namespace does not enforce it gets as far as pulling the image.
    """
    strict, free = make_tenant(), make_tenant()
    kubectl("label", "namespace", free.name, "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    unconfined = '{"container.apparmor.security.beta.kubernetes.io/trainer":"unconfined"}'
    install_chart(f"trainer.stages.prepare.annotations={unconfined}", 'trainer.image.tag="never-built"')
    try:
        return run_scenarios({"denied": partial(prepared, strict), "no-image": partial(prepared, free)})
    finally:
        install_chart()


def prepared(tenant: Tenant, name: str) -> Fault:
    return Fault(tenant, name, "prepare")


def test_pods_denied_by_pod_security_fail_the_job_as_forbidden(faults: dict[str, Future[Fault]]) -> None:
    fault = faults["denied"].result()
    assert fault.seconds < REPORTED_WITHIN_SECONDS
    assert "PodSecurity" in fault.message
    assert fault.status["failure"]["reason"] == "Forbidden"


def test_a_missing_image_fails_the_job_as_image_unavailable(faults: dict[str, Future[Fault]]) -> None:
    fault = faults["no-image"].result()
    assert fault.seconds < REPORTED_WITHIN_SECONDS
    assert "never-built" in fault.message
    assert fault.status["failure"]["reason"] == "ImageUnavailable"


def test_uninstalling_the_chart_keeps_jobs_and_running_stages(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.apply("orphaned", long_job(distributed={"workers": 1}))
    reached = training_step(tenant.until_step("orphaned", 20))
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")
    try:
        assert tenant.api.find("FineTuneJob", "orphaned", tenant.name)
        trained = tenant.revision("orphaned") / "trained" / "manifest.json"
        wait_until(trained.exists, f"training continues from step {reached} to its end", STAGE_TIMEOUT_SECONDS, 0.2)
        kubectl("delete", "ftj", "orphaned", "-n", tenant.name, "--timeout=60s")
        wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
        assert Path(trained).exists()
    finally:
        install_chart()
