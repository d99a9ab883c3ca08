"""Many jobs at once: what they compute comes before what is told of them, and waiting costs few requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator, condition
from tests.apiserver.proxy import proxied

JOBS, WORKERS = 40, 4


@pytest.fixture
def names(desk: Desk) -> list[str]:
    """Jobs that are there before the operator."""
    found = [f"job-{number}" for number in range(JOBS)]
    for name in found:
        desk.apply(name)
    return found


def settled(desk: Desk, names: list[str]) -> bool:
    return all(desk.status(name).get("phase") == "Preparing" for name in names)


def test_every_child_job_is_created_before_what_is_told_of_others(
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
    order = ["job" if "/jobs" in request.path else "told" for request in writes]
    assert order.count("job") == JOBS
    # A worker that finds no other job without a child tells of its own: at the end each may.
    assert order.index("told") > JOBS - WORKERS
    assert [name for name in names if len(told_of(desk, name)) != 1] == []
    assert order.count("told") == 2 * JOBS  # An Event and a status for each.


def told_of(desk: Desk, name: str) -> list[str]:
    return [event["reason"] for event in desk.events(name)]


def test_jobs_that_wait_ask_for_the_events_of_their_namespace_together(
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
                desk.until(lambda status: condition(status, "Ready")["reason"] == "QuotaExceeded", "it says why", name)
        finally:
            operator.kill()
        lists = [request for request in proxy.requests if not request.writes and "/events" in request.path]
    assert lists
    assert [request.path for request in lists if "involvedObject" in request.path] == []
