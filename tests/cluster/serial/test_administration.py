"""What an administrator does with the chart that jobs suffer from: settings that do not fit, and its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import NAMESPACE, RELEASE, helm, install_chart, kubectl
from tests.cluster.curves import long_job
from tests.cluster.faults import WITHIN_SECONDS, Fault
from tests.cluster.scenarios import played
from tests.cluster.tenant import PATIENCE_SECONDS, Tenant, training_step


@pytest.fixture(scope="module")
def faults(make_tenant: Callable[[], Tenant]) -> dict[str, Future[Fault]]:
    """What jobs say under settings of the chart that do not fit: what Pod Security denies, an image that is nowhere.

    Ours meet the restricted standard, unless an administrator's own settings break it; so only a team that need not
    meet it gets as far as the image.
    """
    strict, free = make_tenant(), make_tenant()
    kubectl("label", "namespace", free.name, "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    unconfined = '{"container.apparmor.security.beta.kubernetes.io/trainer":"unconfined"}'
    install_chart(f"trainer.stages.prepare.annotations={unconfined}", 'trainer.image.tag="never-built"')
    try:
        return played({"denied": partial(prepared, strict), "no-image": partial(prepared, free)})
    finally:
        install_chart()


def prepared(tenant: Tenant, name: str) -> Fault:
    return Fault(tenant, name, "prepare")


def test_pods_that_pod_security_denies(faults: dict[str, Future[Fault]]) -> None:
    fault = faults["denied"].result()
    assert fault.after < WITHIN_SECONDS
    assert "PodSecurity" in fault.sentence
    assert fault.status["failure"]["reason"] == "Forbidden"


def test_an_image_that_is_nowhere(faults: dict[str, Future[Fault]]) -> None:
    fault = faults["no-image"].result()
    assert fault.after < WITHIN_SECONDS
    assert "never-built" in fault.sentence
    assert fault.status["failure"]["reason"] == "ImageUnavailable"


def test_chart_uninstalled_with_a_job_running(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.apply("orphaned", long_job(distributed={"workers": 1}))
    reached = training_step(tenant.until_step("orphaned", 20))
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")
    try:
        assert tenant.api.find("FineTuneJob", "orphaned", tenant.name)
        trained = tenant.revision("orphaned") / "trained" / "manifest.json"
        wait_until(trained.exists, f"training goes on from step {reached} to its end", PATIENCE_SECONDS, 0.2)
        kubectl("delete", "ftj", "orphaned", "-n", tenant.name, "--timeout=60s")
        wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
        assert Path(trained).exists()
    finally:
        install_chart()
