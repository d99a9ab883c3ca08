"""Jobs that cannot start: the message while they wait, and how they end."""

from __future__ import annotations

import time
from typing import Any

from tests.apiserver.control_plane import wait_until
from tests.cluster.tenant import STAGE_TIMEOUT_SECONDS, Tenant, classification, condition_message

REPORTED_WITHIN_SECONDS = 30
"""The status must name the cause within this time."""
PENDING_SECONDS = 20

Status = dict[str, Any]


class Fault:
    """A job that cannot start a stage: its status while it waits, the time until that status, and its final status."""

    def __init__(self, tenant: Tenant, name: str, stage: str, **spec: Any) -> None:
        patience = {"pendingTimeoutSeconds": PENDING_SECONDS}
        tenant.apply(name, classification(resilience=patience, **{"distributed": {"workers": 1}, **spec}))
        wait_until(
            lambda: tenant.status(name).get("phase") in (_PHASE[stage], "Failed"),
            f"{stage} starts",
            STAGE_TIMEOUT_SECONDS,
            0.1,
        )
        since = time.monotonic()
        self.waiting = tenant.until(name, self._names_the_cause, "the status names the cause", 120)
        self.seconds = time.monotonic() - since
        self.status = tenant.until_finished(name)

    @staticmethod
    def _names_the_cause(status: Status) -> bool:
        waits = any(one.get("waitingFor") for one in status["stages"])
        # On a busy machine, a kubelet may notice the missing Secret late and try again.
        again = "The kubelet retries." in condition_message(status)
        return (waits and not again) or "failure" in status

    @property
    def message(self) -> str:
        return condition_message(self.waiting)


_PHASE = {"prepare": "Preparing", "train": "Training"}
