"""Jobs that cannot go on: what they say while they wait, and how they end."""

from __future__ import annotations

import time
from typing import Any

from tests.apiserver.control_plane import wait_until
from tests.cluster.tenant import PATIENCE_SECONDS, Tenant, classification, says

WITHIN_SECONDS = 30
"""So soon a user is told."""
PENDING_SECONDS = 20

Status = dict[str, Any]


class Fault:
    """A job that cannot go on in one stage: what it says while it waits, when, and at its end."""

    def __init__(self, tenant: Tenant, name: str, stage: str, **spec: Any) -> None:
        patience = {"pendingTimeoutSeconds": PENDING_SECONDS}
        tenant.apply(name, classification(resilience=patience, **{"distributed": {"workers": 1}, **spec}))
        wait_until(
            lambda: tenant.status(name).get("phase") in (_PHASE[stage], "Failed"),
            f"{stage} begins",
            PATIENCE_SECONDS,
            0.1,
        )
        since = time.monotonic()
        self.told = tenant.until(name, self._is_told, "it is told why it does not go on", 120)
        self.after = time.monotonic() - since
        self.status = tenant.until_over(name)

    @staticmethod
    def _is_told(status: Status) -> bool:
        waits = any(one.get("waitingFor") for one in status["stages"])
        # On a busy machine a kubelet may be too late to see that a Secret is missing: then it looks again.
        again = "Its node tries again." in says(status)
        return (waits and not again) or "failure" in status

    @property
    def sentence(self) -> str:
        return says(self.told)


_PHASE = {"prepare": "Preparing", "train": "Training"}
