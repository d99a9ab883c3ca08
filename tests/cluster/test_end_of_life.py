"""Training jobs are deleted, alone or with their namespace: none of their objects remain."""

from __future__ import annotations

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import kubectl
from tests.cluster.curves import long_job
from tests.cluster.tenant import STAGE_TIMEOUT_SECONDS, Tenant


def test_deleting_a_training_job_removes_its_objects(tenant: Tenant) -> None:
    tenant.apply("deleted", long_job())
    tenant.until_step("deleted", 1)
    kubectl("delete", "ftj", "deleted", "-n", tenant.name, "--timeout=60s")
    wait_until(tenant.is_clean, "nothing is left", STAGE_TIMEOUT_SECONDS, 0.2)


def test_deleting_the_namespace_of_a_training_job_does_not_hang(tenant: Tenant) -> None:
    """Must be the last test of this module, because it deletes the namespace."""
    tenant.apply("lost", long_job(distributed={"workers": 1}))
    tenant.until_step("lost", 1)
    tenant.delete()
