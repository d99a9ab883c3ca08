"""What an administrator does with the chart that jobs suffer from: settings that do not fit, and its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import NAMESPACE, RELEASE, helm, install_chart, kubectl
from tests.cluster.curves import long_job
from tests.cluster.faults import WITHIN_SECONDS, Fault
from tests.cluster.tenant import Tenant, classification, says, training_step


@contextmanager
def chart(setting: str) -> Iterator[None]:
    """The chart with another setting, for a while."""
    install_chart(setting)
    try:
        yield
    finally:
        install_chart()


def test_too_little_memory_is_told_with_limit_and_peak(tenant: Tenant) -> None:
    small = '{"requests":{"cpu":"50m","memory":"256Mi"},"limits":{"memory":"400Mi"}}'
    with chart(f"trainer.stages.train.resources={small}"):
        tenant.apply("cramped", classification())
        status = tenant.until_failed("cramped")
    failure = status["failure"]
    assert (failure["reason"], failure["stage"], failure["fault"]) == ("OutOfMemory", "train", "User")
    assert re.search(r"limit of the pod is 0\.4 GiB, its peak use 0\.\d GiB", failure["message"])
    assert "raise the limit" in says(status)


def test_an_image_that_is_nowhere(tenant: Tenant) -> None:
    with chart('trainer.image.tag="never-built"'):
        fault = Fault(tenant, "no-image", "prepare")
    assert fault.after < WITHIN_SECONDS
    assert "never-built" in fault.sentence
    assert fault.status["failure"]["reason"] == "ImageUnavailable"


def test_pods_that_pod_security_denies(tenant: Tenant) -> None:
    """Ours meet the restricted standard, unless an administrator's own settings break it."""
    unconfined = '{"container.apparmor.security.beta.kubernetes.io/trainer":"unconfined"}'
    with chart(f"trainer.stages.prepare.annotations={unconfined}"):
        fault = Fault(tenant, "denied", "prepare")
    assert fault.after < WITHIN_SECONDS
    assert "PodSecurity" in fault.sentence
    assert fault.status["failure"]["reason"] == "Forbidden"


def test_chart_uninstalled_with_a_job_running(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.apply("orphaned", long_job(distributed={"workers": 1}))
    reached = training_step(tenant.until_step("orphaned", 20))
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout=120s")
    try:
        assert tenant.api.find("FineTuneJob", "orphaned", tenant.name)
        trained = tenant.revision("orphaned") / "trained" / "manifest.json"
        wait_until(trained.exists, f"training goes on from step {reached} to its end", 300, 0.2)
        kubectl("delete", "ftj", "orphaned", "-n", tenant.name, "--timeout=60s")
        wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
        assert Path(trained).exists()
    finally:
        install_chart()
