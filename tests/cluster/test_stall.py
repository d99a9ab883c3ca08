"""A training job that hangs, and one that runs out of memory."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

from tests.apiserver.desk import stage
from tests.cluster.curves import long_job
from tests.cluster.sharing import Turns
from tests.cluster.tenant import Tenant, classification, condition_message, default_limits, ranks, send

STALL_SECONDS, PERIOD_SECONDS = 60, 2
"""Long enough to import torch on busy cores."""
SLACK_SECONDS = 15
"""For terminating the pods, and for the reconcile that observes it."""


def test_a_hanging_rank_is_replaced_after_the_stall_timeout(tenant: Tenant) -> None:
    training = {"maxSteps": 400}  # Long enough that training still runs when a slow machine observes step 40.
    plain = {"zero": {"stage": 0}}
    job = long_job(training=training, distributed=plain, resilience={"stallTimeoutSeconds": STALL_SECONDS})
    with Turns("operator").together():  # A restarted operator would start the stall timeout again.
        tenant.apply("hung", job)
        tenant.until_reported_step("hung", 40)
        stopped = ranks(tenant.worker("hung", 1))
        send(stopped, signal.SIGSTOP)
        since = time.monotonic()
        tenant.until("hung", lambda status: status.get("failure"), "the status has a failure")
        assert time.monotonic() - since < STALL_SECONDS + PERIOD_SECONDS + SLACK_SECONDS
    status = tenant.status("hung")
    assert status["failure"]["reason"] == "Stalled"
    assert status["failure"]["retried"]
    assert f"no progress for {STALL_SECONDS} s" in status["failure"]["message"]
    status = tenant.until_trained("hung")
    assert (stage(status, "train")["attempt"], stage(status, "train")["restarts"]) == (2, 1)


def test_out_of_memory_reports_the_limit_and_the_peak(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.limit("LimitRange", default_limits(memory="400Mi"))
    tenant.apply("cramped", classification(distributed={"workers": 1}))
    status = tenant.until_failed("cramped")
    failure = status["failure"]
    assert (failure["reason"], failure["stage"], failure["fault"]) == ("OutOfMemory", "train", "User")
    assert re.search(r"limit of the pod is 0\.4 GiB, its peak use 0\.\d GiB", failure["message"])
    assert "raise the limit" in condition_message(status)
