"""Disturb a training job, and record how it continues."""

from __future__ import annotations

from collections.abc import Callable

from tests.apiserver.desk import stage
from tests.cluster.curves import long_job
from tests.cluster.sharing import Turns
from tests.cluster.tenant import Tenant, training_step

_DISTURB_AT = 40


class Disturbed:
    """A training job that was disturbed by ``disturb``, with its steps before and after."""

    def __init__(self, tenant: Tenant, name: str, disturb: Callable[[Tenant, str], None], max_restarts: int) -> None:
        # No other test may kill the operator now: a crash that it does not observe itself is not counted. Wait for the
        # turn before the training starts, because it would continue, and finish, during the wait.
        with Turns("operator").together():
            tenant.apply(name, long_job(resilience={"maxRestarts": max_restarts}))
            self.reached = training_step(tenant.until_step(name, _DISTURB_AT))
            disturb(tenant, name)
            tenant.until(name, lambda status: stage(status, "train")["attempt"] == 2, "attempt 2 starts")
        self.resumed = tenant.until_reported_step(name, 1)
        self.status = tenant.until_trained(name)

    @property
    def restarts(self) -> int:
        return int(stage(self.status, "train")["restarts"])
