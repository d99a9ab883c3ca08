"""A rank is killed: training resumes, and its loss curve equals that of an undisturbed run."""

from __future__ import annotations

import signal
from typing import Any

from tests.cluster.curves import EVERY, assert_same_curve
from tests.cluster.disturbed import Disturbed
from tests.cluster.tenant import Tenant, ranks, send

NAME = "rank-killed"


def kill_a_rank(tenant: Tenant, name: str) -> None:
    send(ranks(tenant.worker(name, 1))[:1], signal.SIGKILL)


def test_a_killed_rank_resumes_from_the_newest_checkpoint_and_counts_as_a_restart(
    tenant: Tenant, undisturbed: list[dict[str, Any]]
) -> None:
    end = Disturbed(tenant, NAME, kill_a_rank, max_restarts=3)
    assert end.resumed >= end.reached - EVERY
    assert end.restarts == 1
    assert_same_curve(tenant, NAME, undisturbed)
