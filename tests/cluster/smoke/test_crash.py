"""A rank is killed: training ends as if nothing had been."""

from __future__ import annotations

import signal
from typing import Any

from tests.cluster.curves import EVERY, assert_same
from tests.cluster.disturbed import Disturbed
from tests.cluster.tenant import Tenant, ranks, send

NAME = "rank-killed"


def a_rank_is_killed(tenant: Tenant, name: str) -> None:
    send(ranks(tenant.worker(name, 1))[:1], signal.SIGKILL)


def test_goes_on_from_the_newest_checkpoint_and_counts(tenant: Tenant, undisturbed: list[dict[str, Any]]) -> None:
    end = Disturbed(tenant, NAME, a_rank_is_killed, max_restarts=3)
    assert end.resumed >= end.reached - EVERY
    assert end.restarts == 1
    assert_same(tenant, NAME, undisturbed)
