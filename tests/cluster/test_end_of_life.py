"""Jobs that are deleted or lose their namespace as they train: nothing of them stays."""

from __future__ import annotations

from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import kubectl
from tests.cluster.curves import long_job
from tests.cluster.tenant import PATIENCE_SECONDS, Tenant


def test_deleted_as_it_trains(tenant: Tenant) -> None:
    tenant.apply("deleted", long_job())
    tenant.until_step("deleted", 1)
    kubectl("delete", "ftj", "deleted", "-n", tenant.name, "--timeout=60s")
    wait_until(tenant.is_clean, "nothing is left", PATIENCE_SECONDS, 0.2)


def test_namespace_deleted_in_mid_run(tenant: Tenant) -> None:
    """The last of this module: its namespace is gone after it."""
    tenant.apply("lost", long_job(distributed={"workers": 1}))
    tenant.until_step("lost", 1)
    tenant.delete()
