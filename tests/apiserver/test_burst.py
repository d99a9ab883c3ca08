"""Many jobs at once: runs are started before status and Events are written, and waiting needs few requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator, condition
from tests.apiserver.proxy import proxied

JOBS, WORKERS = 40, 4


@pytest.fixture
def names(desk: Desk) -> list[str]:
    """Jobs that exist before the operator starts."""
    found = [f"job-{number}" for number in range(JOBS)]
    for name in found:
        desk.apply(name)
    return found


def test_child_jobs_come_first_then_the_status_then_events(
    api_server: ControlPlane, operator_token: str, desk: Desk, names: list[str], tmp_path: Path
) -> None:
    with proxied(api_server) as proxy:
        kubeconfig = api_server.write_kubeconfig("finetune-operator", operator_token, url=proxy.url)
        operator = Operator(kubeconfig, tmp_path, namespaces=[desk.namespace], workers=WORKERS)
        try:
            operator.start()
            wait_until(lambda: all(map(desk.events, names)), "every Event exists", 60)
        finally:
            operator.kill()
        writes = [request for request in proxy.requests if request.writes]
    order = [next(kind for kind in ("events", "status", "jobs") if f"/{kind}" in request.path) for request in writes]
    assert Counter(order) == {"jobs": JOBS, "status": JOBS, "events": JOBS}
    # A worker that finds no other job without a child writes the status of its own: at the end each may.
    assert order.index("status") > JOBS - WORKERS
    assert order.index("events") >= 2 * JOBS
    assert [name for name in names if len(desk.events(name)) != 1] == []


def test_pending_jobs_of_a_namespace_share_one_events_request(
    api_server: ControlPlane,
    operator_token: str,
    desk: Desk,
    names: list[str],
    tmp_path: Path,
) -> None:
    with proxied(api_server) as proxy:
        kubeconfig = api_server.write_kubeconfig("finetune-operator", operator_token, url=proxy.url)
        operator = Operator(kubeconfig, tmp_path, namespaces=[desk.namespace])
        try:
            operator.start()
            wait_until(
                lambda: all(desk.status(name).get("phase") == "Preparing" for name in names),
                "every status is written",
                60,
            )
            for name in names:
                desk.kubelet.warn({**desk.child("prepare", name=name), "kind": "Job"}, "FailedCreate", "exceeded quota")
            for name in names:
                desk.until(
                    lambda status: condition(status, "Ready")["reason"] == "QuotaExceeded",
                    "the cause is reported",
                    name,
                )
        finally:
            operator.kill()
        lists = [request for request in proxy.requests if not request.writes and "/events" in request.path]
    assert lists
    assert [request.path for request in lists if "involvedObject" in request.path] == []
