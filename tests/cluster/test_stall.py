"""A training that hangs, and one that needs too much memory."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

from tests.apiserver.desk import stage
from tests.cluster.curves import long_job
from tests.cluster.sharing import Turns
from tests.cluster.tenant import Tenant, at_most, classification, ranks, says, send

STALL_SECONDS, PERIOD_SECONDS = 60, 2
"""Long enough to import torch on busy cores."""
SLACK_SECONDS = 15
"""For the end of the pods and the look that sees it."""


def test_a_rank_that_hangs_is_replaced_in_time(tenant: Tenant) -> None:
    training = {"maxSteps": 400}  # So that a look that comes late on busy cores still finds it at work.
    plain = {"zero": {"stage": 0}}
    job = long_job(training=training, distributed=plain, resilience={"stallTimeoutSeconds": STALL_SECONDS})
    with Turns("operator").together():  # Each new operator would listen anew before it calls anything hung.
        tenant.apply("hung", job)
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


def test_too_little_memory_is_told_with_limit_and_peak(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.limit("LimitRange", at_most(memory="400Mi"))
    tenant.apply("cramped", classification(distributed={"workers": 1}))
    status = tenant.until_failed("cramped")
    failure = status["failure"]
    assert (failure["reason"], failure["stage"], failure["fault"]) == ("OutOfMemory", "train", "User")
    assert re.search(r"limit of the pod is 0\.4 GiB, its peak use 0\.\d GiB", failure["message"])
    assert "raise the limit" in says(status)
