"""A training that hangs."""

from __future__ import annotations

import signal
import time

from tests.apiserver.desk import stage
from tests.cluster.curves import long_job
from tests.cluster.tenant import Tenant, ranks, send

STALL_SECONDS, PERIOD_SECONDS = 60, 2
"""Long enough to import torch on busy cores."""
SLACK_SECONDS = 15
"""For the end of the pods and the look that sees it."""


def test_a_rank_that_hangs_is_replaced_in_time(tenant: Tenant) -> None:
    training = {"maxSteps": 400}  # So that a look that comes late on busy cores still finds it at work.
    plain = {"zero": {"stage": 0}}
    tenant.apply(
        "hung", long_job(training=training, distributed=plain, resilience={"stallTimeoutSeconds": STALL_SECONDS})
    )
    tenant.until_own_step("hung", 40)
    stopped = ranks(tenant.worker("hung", 1))
    send(stopped, signal.SIGSTOP)
    since = time.monotonic()
    tenant.until("hung", lambda status: status.get("failure"), "it is said")
    assert time.monotonic() - since < STALL_SECONDS + PERIOD_SECONDS + SLACK_SECONDS
    status = tenant.status("hung")
    assert status["failure"]["reason"] == "Stalled"
    assert status["failure"]["retried"]
    assert f"no progress for {STALL_SECONDS} s" in status["failure"]["message"]
    status = tenant.until_trained("hung")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 1)
