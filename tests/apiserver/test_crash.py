"""The operator killed after each of its requests, and two operators at once: nothing happens twice, nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import Stage, StageError, StageReport
from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator, stage
from tests.apiserver.kubelet import message
from tests.apiserver.proxy import Proxy, Request, proxied, refusal

WRITES_OF_A_LIFE = 6
"""The minimum: four Jobs, a Service and a status; the number of status writes depends on timing."""


class Nodes(threading.Thread):
    """Nodes on which every Job succeeds as soon as it exists."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(name="nodes", daemon=True)
        self._desk = desk
        self._done: set[str] = set()
        self._over = threading.Event()
        self.started: Counter[str] = Counter()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(0.05):
                for child in self._desk.children():
                    name = child["metadata"]["name"]
                    if child["metadata"]["uid"] not in self._done:
                        self._done.add(child["metadata"]["uid"])
                        self.started[name] += 1
                        self._desk.kubelet.succeed(child)
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._over.set()
        self.join()
        if self.error:
            raise self.error


@pytest.fixture
def proxy(api_server: ControlPlane) -> Iterator[Proxy]:
    with proxied(api_server) as running:
        yield running


@pytest.fixture
def nodes(desk: Desk) -> Iterator[Nodes]:
    playing = Nodes(desk)
    playing.start()
    yield playing
    playing.stop()


@pytest.fixture
def operators(
    api_server: ControlPlane, operator_token: str, desk: Desk, proxy: Proxy, tmp_path: Path
) -> Iterator[Callable[[], Operator]]:
    """Creates operators that reach the API server through the proxy."""
    kubeconfig = api_server.write_kubeconfig("finetune-operator", operator_token, url=proxy.url)
    made: list[Operator] = []

    def make() -> Operator:
        made.append(Operator(kubeconfig, tmp_path / f"{len(made)}", namespaces=[desk.namespace]))
        return made[-1]

    yield make
    for operator in made:
        operator.kill()


def assert_one_life(desk: Desk, nodes: Nodes) -> None:
    """Every stage ran once, the job is published, and every Event exists once."""
    status = desk.until_phase("Succeeded")
    stages = ("prepare", "train", "evaluate", "publish")
    assert nodes.started == Counter({f"intents-r1-{stage}-1": 1 for stage in stages})
    assert [entry["restarts"] for entry in status["stages"]] == [0, 0, 0, 0]
    assert "failure" not in status
    started = [f"{stage.capitalize()}Started" for stage in stages]
    succeeded = [f"{stage.capitalize()}Succeeded" for stage in stages]
    expected = Counter([*started, *succeeded, "Published"])
    # Events follow the status; none exists twice.
    wait_until(lambda: len(reasons_of_events(desk)) >= len(expected), "all Events exist", 60)
    assert reasons_of_events(desk) == expected


def reasons_of_events(desk: Desk) -> Counter[str]:
    return Counter(event["reason"] for event in desk.events())


def test_killed_after_each_request(desk: Desk, proxy: Proxy, nodes: Nodes, operators: Callable[[], Operator]) -> None:
    """One job; each write is the last action of an operator, which never receives the response."""
    running: list[Operator] = []
    done: set[str] = set()
    crashed = threading.Event()

    def crash(request: Request) -> None:
        # A repeated write after a crash has no effect: only new writes end this operator too.
        what = f"{request.path} {request.name}"
        if request.writes and ("/status" in request.path or what not in done) and running:
            done.add(what)
            running.pop().kill()
            crashed.set()

    def reported() -> bool:
        return desk.status().get("phase") == "Succeeded" and "Published" in reasons_of_events(desk)

    proxy.faults.answered = crash
    desk.apply(distributed={"workers": 2})
    killed = 0
    while not reported():
        crashed.clear()
        operator = operators()
        running.append(operator)
        operator.start(wait=False)
        wait_until(lambda: crashed.is_set() or reported(), "it writes or is done", 120)
        killed += crashed.is_set()
        assert killed < 10 * WRITES_OF_A_LIFE  # On a slow machine it sees more states.
    assert killed >= WRITES_OF_A_LIFE
    proxy.faults.answered = lambda _: None
    running.clear()
    operators().start()
    assert_one_life(desk, nodes)


def test_two_operators_at_once(desk: Desk, nodes: Nodes, operators: Callable[[], Operator]) -> None:
    for _ in range(2):
        operators().start()
    for number in range(5):
        desk.apply("intents" if number == 0 else f"intents-{number}")
    for number in range(5):
        # All start at the same time, so the wait for the first covers nearly all of them.
        desk.until_phase("Succeeded", "intents" if number == 0 else f"intents-{number}", 120)
    assert set(nodes.started.values()) == {1}
    assert len(nodes.started) == 20


class TestRestart:
    def test_does_not_disturb_a_running_stage(
        self, desk: Desk, operators: Callable[[], Operator], proxy: Proxy
    ) -> None:
        first = operators().start()
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, "train")["state"] == "Running", "train runs")
        first.kill()
        before = len([request for request in proxy.requests if request.writes])
        operators().start()
        desk.apply("other")
        desk.child("prepare", name="other")
        written = [request.name for request in proxy.requests if request.writes][before:]
        assert "other-r1-prepare-1" in written
        assert [name for name in written if name.startswith("intents-r1")] == []
        desk.kubelet.succeed(child)
        desk.child("evaluate")

    def test_records_what_ended_while_the_operator_was_down(
        self, desk: Desk, operators: Callable[[], Operator]
    ) -> None:
        first = operators().start()
        desk.apply()
        child = desk.run_to("train")
        first.kill()
        desk.kubelet.succeed(child)
        desk.apply("born-meanwhile")
        operators().start()
        desk.child("evaluate")
        desk.child("prepare", name="born-meanwhile")

    def test_does_not_count_a_consequence_of_an_unobserved_end(
        self, desk: Desk, operators: Callable[[], Operator]
    ) -> None:
        """As if it ran on the rebooted node: Kubernetes has also deleted the pod that was there."""
        first = operators().start()
        desk.apply(distributed={"workers": 2, "gpusPerWorker": 0})
        child = desk.run_to("train")
        main, other = desk.kubelet.run(child)
        first.kill()
        broken = StageError(reason=Reason.INTERNAL_ERROR, message="Connection closed by peer.", exit_code=70)
        report = StageReport(stage=Stage.TRAIN, attempt=1, seconds=1.0, error=broken)
        desk.kubelet.ended(main, 70, message(report))
        desk.kubelet.ended(other, 255, reason="Unknown")
        desk.kubelet.remove(other)
        desk.kubelet.fail(child)
        operators().start()
        desk.child("train", attempt=2)
        status = desk.until(lambda status: stage(status, "train")["attempt"] == 2, "the next attempt")
        assert stage(status, "train")["restarts"] == 0

    def test_does_not_touch_a_job_that_was_deleted_meanwhile(
        self, desk: Desk, operators: Callable[[], Operator]
    ) -> None:
        first = operators().start()
        desk.apply()
        child = desk.child("prepare")
        first.kill()
        desk.api.delete("FineTuneJob", "intents", desk.namespace)
        desk.kubelet.succeed(child)
        operators().start()
        desk.apply("other")
        desk.child("prepare", name="other")
        left = {found["metadata"]["name"] for found in desk.children()}
        assert left == {"intents-r1-prepare-1", "other-r1-prepare-1"}

    def test_sigterm_exits_with_code_0(self, operators: Callable[[], Operator]) -> None:
        assert operators().start().stop() == 0

    def test_sigterm_is_handled_before_the_first_sync(self, proxy: Proxy, operators: Callable[[], Operator]) -> None:
        proxy.faults.answer = lambda _: refusal(503, "ServiceUnavailable", "not yet")
        operator = operators().start(wait=False)
        wait_until(lambda: operator.http("/readyz")[0] == 503, "it serves", 60)
        assert operator.stop() == 0

    def test_sigterm_is_handled_before_the_imports(self, operators: Callable[[], Operator]) -> None:
        operator = operators().start(wait=False)
        wait_until(operator.hears_stops, "it hears stops", 60, 0.005)
        assert operator.http("/readyz")[0] == 0
        assert operator.stop() == 0


def test_no_unnecessary_requests(desk: Desk, proxy: Proxy, nodes: Nodes, operators: Callable[[], Operator]) -> None:
    """One job costs four Jobs, nine Events and one status write per change."""
    operators().start()
    desk.apply()
    assert_one_life(desk, nodes)
    writes: Counter[Any] = Counter()
    for request in proxy.requests:
        if request.writes:
            writes[next(kind for kind in ("/events", "/jobs", "/status") if kind in request.path)] += 1
    assert writes["/jobs"] == 4
    assert writes["/events"] == 9
    assert writes["/status"] <= 16
