"""An API server that is unavailable, busy or late, and other clients that write to the same objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.apiserver.conftest import admin_of, install_crd
from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator, condition, stage
from tests.apiserver.proxy import Proxy, Request, proxied, refusal


@pytest.fixture
def proxy(api_server: ControlPlane) -> Iterator[Proxy]:
    with proxied(api_server) as running:
        yield running


@pytest.fixture
def operator(
    api_server: ControlPlane, operator_token: str, desk: Desk, proxy: Proxy, tmp_path: Path
) -> Iterator[Operator]:
    kubeconfig = api_server.write_kubeconfig("finetune-operator", operator_token, url=proxy.url)
    running = Operator(kubeconfig, tmp_path / "operator", namespaces=[desk.namespace]).start()
    yield running
    running.kill()


@pytest.mark.usefixtures("operator")
class TestFailedRequests:
    @pytest.mark.parametrize(
        ("code", "reason"),
        [(409, "Conflict"), (429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable")],
    )
    def test_job_succeeds_if_every_second_write_fails(self, desk: Desk, proxy: Proxy, code: int, reason: str) -> None:
        numbers = itertools.count()

        def answer(request: Request) -> web.Response | None:
            # A conflict over a Job means another owner's Job; a conflict over a status means an outdated cache.
            hit = request.writes and (code != 409 or "/status" in request.path)
            return refusal(code, reason, "not now", 0) if hit and next(numbers) % 2 == 0 else None

        proxy.faults.answer = answer
        desk.apply()
        status = desk.run_all()
        assert [entry["restarts"] for entry in status["stages"]] == [0, 0, 0, 0]
        assert [entry["attempt"] for entry in status["stages"]] == [1, 1, 1, 1]

    def test_request_without_response_is_retried(self, desk: Desk, proxy: Proxy) -> None:
        lost: list[str] = []

        def answered(request: Request) -> None:
            if request.writes and "/jobs" in request.path and request.name not in lost:
                lost.append(request.name)
                raise ConnectionResetError

        proxy.faults.answered = answered
        desk.apply()
        status = desk.run_all()
        assert len(lost) == 4
        assert [entry["attempt"] for entry in status["stages"]] == [1, 1, 1, 1]


@pytest.mark.usefixtures("operator")
class TestWatches:
    def test_broken_watches_are_restarted(self, desk: Desk, proxy: Proxy) -> None:
        desk.apply()
        for name in ("prepare", "train", "evaluate", "publish"):
            proxy.drop_watches()
            desk.kubelet.succeed(desk.child(name))
        desk.until_phase("Succeeded")

    def test_late_watch_events_start_nothing_twice(self, desk: Desk, proxy: Proxy) -> None:
        """The operator puts the responses to its own writes into its cache before watches deliver them."""
        desk.apply()
        child = desk.run_to("train")
        proxy.faults.hold_watches.set()
        desk.kubelet.succeed(child)
        desk.apply(resilience={"maxRestarts": 5})
        proxy.faults.hold_watches.clear()
        status = desk.run_all()
        assert [entry["attempt"] for entry in status["stages"]] == [1, 1, 1, 1]


class TestOutage:
    def test_api_server_stops_and_returns(self, tmp_path: Path) -> None:
        plane = ControlPlane(tmp_path / "plane")
        plane.start()
        try:
            admin = admin_of(plane)
            install_crd(admin)
            admin.create("Namespace", {"metadata": {"name": "team-a"}})
            desk = Desk(admin, "team-a")
            operator = Operator(plane.kubeconfig, tmp_path / "operator").start()
            try:
                self._live_through_it(plane, desk, operator)
            finally:
                operator.kill()
        finally:
            plane.stop()

    @staticmethod
    def _live_through_it(plane: ControlPlane, desk: Desk, operator: Operator) -> None:
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, "train")["state"] == "Running", "train runs")
        plane.stop_apiserver()
        wait_until(lambda: 'code="0"' in operator.http("/metrics")[1], "the operator counts a failed request", 60)
        assert operator.http("/healthz")[0] == 200
        plane.start_apiserver()
        desk.kubelet.succeed(child)
        desk.kubelet.succeed(desk.child("evaluate"))
        desk.kubelet.succeed(desk.child("publish"))
        status = desk.until_phase("Succeeded")
        assert stage(status, "train")["attempt"] == 1

    def test_operator_starts_before_the_api_server(self, tmp_path: Path) -> None:
        plane = ControlPlane(tmp_path / "plane")
        plane.start()
        try:
            admin = admin_of(plane)
            install_crd(admin)
            plane.stop_apiserver()
            operator = Operator(plane.kubeconfig, tmp_path / "operator").start(wait=False)
            try:
                wait_until(lambda: operator.http("/readyz")[0] == 503, "the operator is up and not ready", 60)
                assert operator.http("/healthz")[0] == 200
                plane.start_apiserver()
                wait_until(lambda: operator.http("/readyz")[0] == 200, "the operator is ready", 60)
            finally:
                operator.kill()
        finally:
            plane.stop()


@pytest.mark.usefixtures("operator")
class TestFieldManagers:
    def test_kubectl_gitops_tool_and_operator_do_not_conflict(self, desk: Desk) -> None:
        desk.apply(manager="argocd-controller")
        first = desk.child("prepare")
        desk.api.merge(
            "FineTuneJob", "intents", desk.namespace, {"spec": {"suspend": True}}, fieldManager="kubectl-patch"
        )
        desk.until_phase("Suspending")
        desk.kubelet.fail(first, "DeadlineExceeded")
        desk.until_phase("Suspended")
        # The tool does not set suspend, so its apply keeps the value.
        desk.apply(manager="argocd-controller")
        assert desk.job()["spec"]["suspend"] is True
        desk.api.merge(
            "FineTuneJob", "intents", desk.namespace, {"spec": {"suspend": None}}, fieldManager="kubectl-patch"
        )
        desk.kubelet.succeed(desk.child("prepare", attempt=2))
        for following in ("train", "evaluate", "publish"):
            desk.kubelet.succeed(desk.child(following))
        desk.until_phase("Succeeded")
        found = desk.job()
        assert found["spec"] == desk.manifest()["spec"]
        owners = {(entry["manager"], entry.get("subresource", "")) for entry in found["metadata"]["managedFields"]}
        assert owners == {("argocd-controller", ""), ("finetune-operator", "status")}

    def test_changes_of_a_child_by_others_are_kept(self, desk: Desk) -> None:
        desk.apply()
        child = desk.child("prepare")
        name = child["metadata"]["name"]
        desk.api.merge("Job", name, desk.namespace, {"metadata": {"labels": {"team": "blue"}}})
        desk.kubelet.succeed(child)
        desk.child("train")
        assert desk.api.get("Job", name, desk.namespace)["metadata"]["labels"]["team"] == "blue"

    def test_status_written_by_others_is_repaired(self, desk: Desk) -> None:
        desk.apply()
        desk.child("prepare")
        desk.api.merge_status("FineTuneJob", "intents", desk.namespace, {"phase": "Failed"})
        desk.until_phase("Preparing")


class TestObservability:
    def test_metrics_count_jobs_and_requests(self, desk: Desk, operator: Operator) -> None:
        desk.apply()
        desk.run_all()
        desk.apply("held", suspend=True)
        desk.until_phase("Suspended", "held")
        _, text = operator.http("/metrics")
        values = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"
        }
        assert values['finetune_jobs{phase="Succeeded"}'] == 1
        assert values['finetune_jobs{phase="Suspended"}'] == 1
        assert values['finetune_jobs{phase="Training"}'] == 0
        assert values['finetune_stage_outcomes_total{reason="Succeeded",stage="train"}'] == 1
        assert values['finetune_api_requests_total{code="201",method="POST",resource="jobs"}'] == 4
        assert values["finetune_reconcile_errors_total"] == 0
        assert values["finetune_queue_depth"] == 0
        scores = {series for series in values if "intents" in series}
        assert all(series.startswith("finetune_job_score{") for series in scores)
        labels = f'metric="accuracy",name="intents",namespace="{desk.namespace}",side="tuned"'
        assert values[f"finetune_job_score{{{labels}}}"] == pytest.approx(0.84)
        desk.api.delete("FineTuneJob", "intents", desk.namespace)
        wait_until(lambda: "intents" not in operator.http("/metrics")[1], "the scores are gone")

    def test_logs_are_json_with_the_job(self, desk: Desk, operator: Operator) -> None:
        import json

        desk.api.create(
            "ResourceQuota",
            {"metadata": {"name": "none", "namespace": desk.namespace}, "spec": {"hard": {"count/jobs.batch": "1"}}},
        )
        self._quota_counts(desk)
        desk.apply()
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits")
        assert "exceeded quota" in condition(status, "DataPrepared")["message"]
        lines = [json.loads(line) for line in operator.log().splitlines()]
        (line, *_) = [line for line in lines if "cannot start" in line["message"]]
        assert (line["namespace"], line["job"], line["level"]) == (desk.namespace, "intents", "warning")
        assert (line["revision"], line["stage"]) == (1, "prepare")

    @staticmethod
    def _quota_counts(desk: Desk) -> None:
        """There is no quota controller; admission uses the status as written. A quota of 0 would fail the job."""
        desk.api.merge_status(
            "ResourceQuota",
            "none",
            desk.namespace,
            {"hard": {"count/jobs.batch": "1"}, "used": {"count/jobs.batch": "1"}},
        )


def test_operator_exits_when_its_watches_cannot_continue(
    desk: Desk, proxy: Proxy, operator: Operator, start_operator: Callable[..., Operator]
) -> None:
    """Kopf stops at errors that are not network errors; then the process is restarted.

    One watch fails before the others do: they then wait for a login that Kopf no longer makes, and hold its end up.
    """
    wait_until(lambda: sum("watch=true" in request.path for request in tuple(proxy.requests)) >= 3, "all are watched")
    refused = 0

    def answer(request: Request) -> web.Response | None:
        nonlocal refused
        if "watch=true" not in request.path:
            return None
        if "/finetunejobs?" in request.path:
            refused += 1
        return refusal(403, "Forbidden", "no")

    proxy.faults.answer = answer
    proxy.drop_watches("/finetunejobs?")
    wait_until(lambda: refused >= 2, "the first watch is refused a second time")
    proxy.drop_watches()
    wait_until(lambda: operator.http("/healthz")[0] == 0, "the operator has ended", 60)
    start_operator()
    desk.apply()
    desk.run_all()


class TestCrd:
    def test_may_be_installed_after_the_operator(self, tmp_path: Path) -> None:
        plane = ControlPlane(tmp_path / "plane")
        plane.start()
        try:
            admin = admin_of(plane)
            admin.create("Namespace", {"metadata": {"name": "team-a"}})
            operator = Operator(plane.kubeconfig, tmp_path / "operator", resyncSeconds=3600).start(wait=False)
            try:
                wait_until(lambda: operator.http("/readyz")[0] == 503, "the operator is up and not ready", 60)
                install_crd(admin)
                wait_until(lambda: operator.http("/readyz")[0] == 200, "the operator is ready", 60)
                desk = Desk(admin, "team-a")
                desk.apply()
                desk.run_all()
            finally:
                operator.kill()
        finally:
            plane.stop()


def test_without_a_cluster_the_error_is_one_sentence(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "none", tmp_path / "operator").start(wait=False)
    assert operator.wait() == 64
    assert "\nfinetune_operator: no service account of a pod was found, and no usable kubeconfig: " in operator.log()
