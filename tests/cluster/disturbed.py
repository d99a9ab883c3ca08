"""A training to which something happens, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable

from tests.apiserver.desk import stage
from tests.cluster.curves import long_job
from tests.cluster.sharing import Turns
from tests.cluster.tenant import Tenant, training_step

_DISTURB_AT = 40


class Disturbed:
    """How a training goes on that ``disturb`` happens to."""

    def __init__(self, tenant: Tenant, name: str, disturb: Callable[[Tenant, str], None], max_restarts: int) -> None:
        # An operator that is not there may see only the echo of a crash, which does not count. Whose turn it is shows
        # before the training begins, which would go on, and end, while this waits.
        with Turns("operator").together():
            tenant.apply(name, long_job(resilience={"maxRestarts": max_restarts}))
            self.reached = training_step(tenant.until_step(name, _DISTURB_AT))
            disturb(tenant, name)
            tenant.until(name, lambda status: stage(status, "train")["attempt"] == 2, "attempt 2 begins")
        self.resumed = tenant.until_own_step(name, 1)
        self.status = tenant.until_trained(name)

    @property
    def restarts(self) -> int:
        return int(stage(self.status, "train")["restarts"])
