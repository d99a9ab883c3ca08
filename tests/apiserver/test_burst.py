"""Many jobs at once: runs are started before status and Events are written, and waiting needs few requests."""

from __future__ import annotations

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


def settled(desk: Desk, names: list[str]) -> bool:
    return all(desk.status(name).get("phase") == "Preparing" for name in names)


def test_all_child_jobs_are_created_before_events_and_status_of_others(
    api_server: ControlPlane, operator_token: str, desk: Desk, names: list[str], tmp_path: Path
) -> None:
    with proxied(api_server) as proxy:
        kubeconfig = api_server.write_kubeconfig("finetune-operator", operator_token, url=proxy.url)
        operator = Operator(kubeconfig, tmp_path, namespaces=[desk.namespace], workers=WORKERS)
        try:
            operator.start()
            wait_until(lambda: settled(desk, names), "every status is written", 60)
        finally:
            operator.kill()
        writes = [request for request in proxy.requests if request.writes]
    order = ["job" if "/jobs" in request.path else "report" for request in writes]
    assert order.count("job") == JOBS
    # A worker that finds no other job without a child writes the status of its own: at the end each may.
    assert order.index("report") > JOBS - WORKERS
    assert [name for name in names if len(reports_of(desk, name)) != 1] == []
    assert order.count("report") == 2 * JOBS  # An Event and a status for each.


def reports_of(desk: Desk, name: str) -> list[str]:
    return [event["reason"] for event in desk.events(name)]


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
            wait_until(lambda: settled(desk, names), "every status is written", 60)
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
