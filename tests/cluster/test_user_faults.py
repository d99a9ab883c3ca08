"""What a user gets wrong is a sentence in a condition within 30 s, and no job hangs for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import condition
from tests.cluster.cluster import install_chart
from tests.cluster.scenarios import played
from tests.cluster.tenant import Tenant, classification

pytestmark = pytest.mark.lengthy

WITHIN_SECONDS = 30
PENDING_SECONDS = 45

Status = dict[str, Any]
GPUS = {"workers": 1, "gpusPerWorker": 8}


def limited(tenant: Tenant, kind: str, spec: dict[str, Any]) -> None:
    metadata = {"name": "limit", "namespace": tenant.name}
    path = f"/api/v1/namespaces/{tenant.name}/{kind.lower()}s/limit"
    body = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}
    tenant.api.request("PATCH", path, body, "application/apply-patch+yaml", {"fieldManager": "team"})


class Fault:
    """A job that cannot go on in one stage: what it says while it waits, when, and at its end."""

    def __init__(self, tenant: Tenant, name: str, stage: str, **spec: Any) -> None:
        patience = {"pendingTimeoutSeconds": PENDING_SECONDS}
        tenant.apply(name, classification(resilience=patience, **{"distributed": {"workers": 1}, **spec}))
        wait_until(lambda: tenant.status(name).get("phase") in (_PHASE[stage], "Failed"), f"{stage} begins", 300, 0.1)
        since = time.monotonic()
        self.told = tenant.until(name, self._is_told, "it is told why it does not go on", 120)
        self.after = time.monotonic() - since
        self.status = tenant.until_over(name)

    @staticmethod
    def _is_told(status: Status) -> bool:
        waits = any(one.get("waitingFor") for one in status["stages"])
        return waits or "failure" in status

    @property
    def sentence(self) -> str:
        return str(condition(self.told, "Ready")["message"])


_PHASE = {"prepare": "Preparing", "train": "Training"}


@pytest.fixture(scope="module")
def faults(make_tenant: Callable[[], Tenant]) -> dict[str, Future[Fault]]:
    team, quota, bounds = make_tenant(), make_tenant(), make_tenant()
    limited(quota, "ResourceQuota", {"hard": {"pods": "0"}})
    limited(bounds, "LimitRange", {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]})
    nowhere = {"train": {"uri": "s3://inputs/nothing.jsonl", "secretRef": {"name": "s3"}}}
    return played(
        {
            "no-secret": lambda name: Fault(
                team, name, "prepare", output={"uri": "s3://adapters", "secretRef": {"name": "nobodys"}}
            ),
            "no-data": lambda name: Fault(team, name, "prepare", dataset=nowhere),
            "no-gpus": lambda name: Fault(team, name, "train", distributed=GPUS),
            "no-quota": lambda name: Fault(quota, name, "prepare"),
            "not-allowed": lambda name: Fault(bounds, name, "prepare"),
        }
    )


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("no-secret", "SetupFailed", 'secret "nobodys" not found'),
        ("no-data", "NotFound", "s3://inputs/nothing.jsonl"),
        ("no-gpus", "Unschedulable", "nvidia.com/gpu"),
        ("no-quota", "QuotaExceeded", "exceeded quota"),
        ("not-allowed", "Forbidden", "maximum memory usage per Container is 1Gi"),
    ],
)
def test_is_told_in_time_and_ends(faults: dict[str, Future[Fault]], name: str, reason: str, words: str) -> None:
    fault = faults[name].result()
    assert words in fault.sentence
    assert fault.after < WITHIN_SECONDS
    assert fault.status["phase"] == "Failed"
    assert fault.status["failure"]["reason"] == reason
    assert words in fault.status["failure"]["message"]


class TestWhatTheClusterRefuses:
    @pytest.fixture(scope="class")
    def wrong_image(self) -> Iterator[None]:
        install_chart('trainer.image.tag="never-built"')
        yield
        install_chart()

    @pytest.mark.usefixtures("wrong_image")
    def test_an_image_that_is_nowhere(self, tenant: Tenant) -> None:
        fault = Fault(tenant, "no-image", "prepare")
        assert fault.after < WITHIN_SECONDS
        assert "never-built" in fault.sentence
        assert fault.status["failure"]["reason"] == "ImageUnavailable"

    def test_pods_that_pod_security_denies(self, make_tenant: Callable[[], Tenant]) -> None:
        """Ours meet the restricted standard, unless an administrator's own settings break it."""
        unconfined = '{"container.apparmor.security.beta.kubernetes.io/trainer":"unconfined"}'
        install_chart(f"trainer.stages.prepare.annotations={unconfined}")
        try:
            fault = Fault(make_tenant(), "denied", "prepare")
        finally:
            install_chart()
        assert fault.after < WITHIN_SECONDS
        assert "PodSecurity" in fault.sentence
        assert fault.status["failure"]["reason"] == "Forbidden"
