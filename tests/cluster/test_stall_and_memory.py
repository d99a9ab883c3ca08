"""A training that hangs, and one that needs more memory than it may have."""

from __future__ import annotations

import re
import signal
import time

from tests.apiserver.desk import stage
from tests.cluster.cluster import install_chart
from tests.cluster.curves import long_job
from tests.cluster.tenant import Tenant, classification, ranks, says, send

STALL_SECONDS, PERIOD_SECONDS = 30, 2
SLACK_SECONDS = 15
"""For the end of the pods and the look that sees it."""


def test_a_rank_that_hangs_is_replaced_in_time(tenant: Tenant) -> None:
    tenant.apply("hung", long_job(resilience={"stallTimeoutSeconds": STALL_SECONDS}))
    tenant.until_step("hung", 60)
    stopped = ranks(tenant.worker("hung", 1))
    send(stopped, signal.SIGSTOP)
    since = time.monotonic()
    tenant.until("hung", lambda status: status.get("failure"), "it is said")
    assert time.monotonic() - since < STALL_SECONDS + PERIOD_SECONDS + SLACK_SECONDS
    status = tenant.status("hung")
    assert status["failure"]["reason"] == "Stalled"
    assert status["failure"]["retried"]
    assert f"no progress for {STALL_SECONDS} s" in status["failure"]["message"]
    status = tenant.until_succeeded("hung")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 1)


def test_too_little_memory_is_told_with_limit_and_peak(tenant: Tenant) -> None:
    small = '{"requests":{"cpu":"50m","memory":"256Mi"},"limits":{"memory":"400Mi"}}'
    install_chart(f"trainer.stages.train.resources={small}")
    try:
        tenant.apply("cramped", classification())
        status = tenant.until_over("cramped")
    finally:
        install_chart()
    failure = status["failure"]
    assert (failure["reason"], failure["stage"], failure["fault"]) == ("OutOfMemory", "train", "User")
    assert re.search(r"limit of the pod is 0\.4 GiB, its peak use 0\.\d GiB", failure["message"])
    assert "raise the limit" in says(status)
