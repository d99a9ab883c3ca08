"""The text of the cluster commands, without a cluster: errors, the page of a job, the choice of a log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_cli import job_commands
from finetune_cli.get import rows
from finetune_cli.logs import Wanted, chosen, logs
from finetune_cli.main import app
from finetune_cli.output import Output, columns, program
from finetune_cli.page import page
from finetune_cli.place import OnCluster
from finetune_cli.refusals import ClusterError, refusal
from finetune_cli.stored import has_finished, read
from finetune_cli.submit import changed
from finetune_cli.text import PlainLines
from finetune_cli.view import of_job
from finetune_cli.watch import watch
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, PendingCause, RunState
from finetune_core.status import invalid_spec
from finetune_core.times import to_text
from finetune_kube.errors import ApiError, decode
from finetune_kube.objects import parse_pod
from tests import kube_objects
from tests.builders import (
    NOON,
    a_job,
    a_progress,
    a_run,
    after,
    an_evaluation,
    failed,
    succeeded,
)
from tests.unit.distillation_cases import LOGITS, RESPONSES
from tests.usual_stages import STAGES


def a_job_after(*runs: ObservedRun, **spec: Any) -> FineTuneJob:
    job = a_job(**spec)
    job = job.model_copy(update={"status": plan(job, Observed(), NOON).status})
    return job.model_copy(update={"status": plan(job, Observed(runs), after(seconds=11)).status})


def stored(job: FineTuneJob) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(job.model_dump_json(exclude_none=True))
    return document


def page_of(job: FineTuneJob) -> list[str]:
    return page(of_job(job), str(job.status.phase), OnCluster("team-a", "intents"))


class TestView:
    def test_shows_progress_from_the_status(self) -> None:
        run = a_run(Stage.TRAIN, progress=a_progress(loss=0.51239, tokens_per_second=1234.4, eta_seconds=200))
        lines = PlainLines().update(of_job(a_job_after(succeeded(Stage.PREPARE), run)), 0)
        assert lines[-1] == "train: 40/120 (33 %), loss 0.5124, 1,234 tokens/s, 3m20s left"

    def test_prints_a_pending_cause_once(self) -> None:
        cause = PendingCause(Reason.UNSCHEDULABLE, "No node takes pod x: 0/3 nodes are available.")
        view = of_job(a_job_after(a_run(Stage.PREPARE, RunState.PENDING, pending_cause=cause)))
        lines = PlainLines()
        assert lines.update(view, 0)[-1] == (
            "prepare: waiting (Unschedulable): No node takes pod x: 0/3 nodes are available."
        )
        assert lines.update(view, 60) == []

    def test_prints_a_suspension_once(self) -> None:
        job = a_job(suspend=True)
        job = job.model_copy(update={"status": plan(job, Observed(stop_requested=True), NOON).status})
        lines = PlainLines()
        assert lines.update(of_job(job), 0)[-1].startswith("Suspended in stage prepare")
        assert lines.update(of_job(job), 1) == []

    def test_starts_again_with_a_new_revision(self) -> None:
        lines = PlainLines()
        job = a_job_after(succeeded(Stage.PREPARE))
        lines.update(of_job(job), 0)
        again = job.model_copy(update={"status": job.status.model_copy(update={"revision": 2})})
        assert lines.update(of_job(again), 1)[0] == "team-a/intents, revision 2"


class TestDetailPage:
    def test_of_a_running_job(self) -> None:
        run = a_run(Stage.TRAIN, attempt=1, progress=a_progress())
        assert page_of(a_job_after(succeeded(Stage.PREPARE), run)) == [
            "team-a/intents, revision 1: Training",
            "hf://owner/encoder, TextClassification, LoRA rank 16, 1 GPU",
            "",
            "✔ prepare   done in 10s: 4,967 training, 621 validation and 621 test examples, 9 labels; "
            "34 duplicates dropped",
            "▸ train     40/120 (33 %)",
            "· evaluate",
            "· publish",
        ]

    @pytest.mark.parametrize(
        ("changes", "teacher"),
        [(LOGITS, "hf://owner/teacher"), (RESPONSES, "owner/teacher at https://models.example/v1")],
    )
    def test_of_a_distillation_names_the_teacher(self, changes: dict[str, Any], teacher: str) -> None:
        task = {"type": "InstructionTuning"}
        shown = page_of(a_job_after(a_run(Stage.PREPARE), task=task, method={"type": "Full"}, **changes))
        assert shown[1] == f"hf://owner/encoder, InstructionTuning, Full, taught by {teacher}, 1 GPU"

    def test_of_a_failed_job_names_the_fault_and_the_logs_command(self) -> None:
        assert page_of(a_job_after(failed(Stage.PREPARE, Reason.BAD_DATA)))[-4:] == [
            "Failed in prepare, attempt 1 (BadData): prepare met BadData.",
            "To fix this, change the manifest, the data, or the permissions of its Secrets.",
            "log       finetune logs intents -n team-a --stage prepare --attempt 1",
            "Correct the data, then delete the job and apply it again; or apply a spec with other data to start the "
            "next revision.",
        ]

    def test_of_a_retried_failure_announces_another_attempt(self) -> None:
        assert page_of(a_job_after(failed(Stage.PREPARE, Reason.UNAVAILABLE)))[-1] == "Another attempt follows."

    def test_of_a_retried_failure_names_the_attempt_that_runs(self) -> None:
        shown = page_of(a_job_after(failed(Stage.PREPARE, Reason.UNAVAILABLE), a_run(Stage.PREPARE, attempt=2)))
        assert shown[-1] == "Attempt 2 has begun."

    def test_of_a_published_job(self) -> None:
        shown = page_of(a_job_after(*[succeeded(stage) for stage in STAGES]))
        assert shown[0] == "team-a/intents, revision 1: Succeeded"
        assert "metric    linear probe   tuned   change      95 % interval" in shown
        assert shown[-3:] == [
            "artifact    s3://adapters/team-a/intents/r1/artifact",
            "digest      sha256:" + "0" * 64,
            "report      s3://adapters/team-a/intents/r1/artifact/report.html",
        ]

    def test_of_a_job_with_an_invalid_spec(self) -> None:
        job = a_job()
        job = job.model_copy(update={"status": invalid_spec(job.status, 1, "spec.model.uri is empty", NOON)})
        assert "! Not accepted: spec.model.uri is empty" in page_of(job)
        assert has_finished(job)

    def test_warns_if_the_spec_is_not_reconciled_yet(self) -> None:
        assert page_of(a_job(generation=2))[2].startswith("! The operator has not reconciled this spec yet")


class TestStoredJob:
    def test_with_unknown_fields_of_a_newer_operator_can_be_read(self) -> None:
        document = stored(a_job_after(*[succeeded(stage, evaluation=an_evaluation()) for stage in STAGES]))
        document["status"]["queue"] = {"position": 3}
        document["status"]["stages"][0]["node"] = "a"
        assert read(document).status.evaluation is not None

    def test_with_an_unknown_value_is_reported_as_unreadable(self) -> None:
        document = stored(a_job())
        document["spec"]["task"]["type"] = "Divination"
        with pytest.raises(
            ClusterError, match=r"cannot read FineTuneJob intents .*spec\.task\.type is 'Divination'.* -o yaml"
        ):
            read(document)

    def test_with_a_changed_spec_is_not_finished(self) -> None:
        job = a_job_after(*[succeeded(stage) for stage in STAGES])
        newer = job.model_copy(update={"metadata": job.metadata.model_copy(update={"generation": 2})})
        assert (has_finished(job), has_finished(newer)) == (True, False)

    def test_differs_after_a_label_change_but_not_after_a_status_change(self) -> None:
        before = stored(a_job())
        assert not changed(before, {**before, "status": {"phase": "Pending"}})
        assert changed(before, {**before, "metadata": {**before["metadata"], "labels": {"team": "a"}}})


def refused_request(code: int, content: bytes) -> ClusterError:
    return refusal(decode(code, "", content), "https://10.0.0.1", "team-a", "intents")


class TestClusterError:
    @pytest.mark.parametrize(
        ("code", "status", "expected", "exit_code"),
        [
            (401, {}, "rejected the credentials", 77),
            (
                403,
                {"message": 'x is forbidden: User "jane" cannot patch resource "finetunejobs" in API group "y"'},
                "jane may not patch finetunejobs in namespace team-a; ask the cluster administrator",
                77,
            ),
            (403, {"message": "denied by policy"}, "Forbidden: denied by policy", 77),
            (404, {"details": {"kind": "namespaces", "name": "team-a"}}, "There is no namespace team-a", 66),
            (404, {"message": "404 page not found"}, "has no CRD for FineTuneJob of finetune.dev; install", 66),
            (404, {"details": {"name": "intents", "kind": "finetunejobs"}}, "There is no FineTuneJob intents", 66),
            (
                422,
                {"details": {"causes": [{"field": "spec.task", "message": "must be so"}]}},
                "The API server rejected intents: spec.task: must be so",
                64,
            ),
            (503, {"message": "starting."}, "The API server returned 503: starting. Try again later.", 69),
        ],
    )
    def test_message_and_exit_code_for_each_status_code(
        self, code: int, status: Mapping[str, Any], expected: str, exit_code: int
    ) -> None:
        error = refused_request(code, json.dumps(status).encode())
        assert expected in error.message
        assert error.exit_code == exit_code

    def test_shows_a_response_that_is_not_json(self) -> None:
        assert "upstream failed" in refused_request(502, b"upstream failed").message
        assert "a page of a proxy" in refused_request(502, b"<html>").message

    def test_of_a_conflict_names_field_manager_and_field(self) -> None:
        cause = {"message": 'conflict with "argocd" using finetune.dev/v1alpha1', "field": ".spec.suspend"}
        error = refused_request(409, json.dumps({"details": {"causes": [cause]}}).encode())
        assert error.field_managers == {"argocd": ["spec.suspend"]}

    def test_of_a_failed_connection_names_host_and_cause(self) -> None:
        error = ApiError(0, "Unreachable", "")
        error.__cause__ = ConnectionRefusedError(111, "")
        message = refusal(error, "https://10.0.0.1", None, None).message
        assert message == "The cluster at https://10.0.0.1 cannot be reached: connection refused."


class TestTable:
    TABLE: Mapping[str, Any] = {
        "columnDefinitions": [{"name": "Name"}, {"name": "STATUS"}, {"name": "ARTIFACT", "priority": 1}],
        "rows": [{"cells": ["intents", None, "s3://a"], "object": {"metadata": {"namespace": "team-a"}}}],
    }

    def test_omits_wide_columns_by_default(self) -> None:
        assert list(rows(dict(self.TABLE), all_namespaces=False, wide=False)) == [["NAME", "STATUS"], ["intents", ""]]

    def test_shows_namespaces_and_wide_columns_on_request(self) -> None:
        assert columns(rows(dict(self.TABLE), all_namespaces=True, wide=True)) == [
            "NAMESPACE   NAME      STATUS   ARTIFACT",
            "team-a      intents            s3://a",
        ]


def a_pod(stage: Stage, attempt: int = 1, worker: int = 0, state: str = "running", **status: Any) -> dict[str, Any]:
    times = {"startedAt": to_text(NOON)} | ({"exitCode": 0} if state == "terminated" else {})
    container = {"name": "trainer", "state": {state: {} if state == "waiting" else times}}
    child = kube_objects.a_child(stage, attempt, workers=2)
    pod = kube_objects.a_pod(child, worker, phase="Running", **{"containerStatuses": [container], **status})
    pod["metadata"]["name"] = f"intents-r1-{stage}-{attempt}-{worker}"
    return pod


class FakeCluster:
    """A cluster with one job, whose pods are those of the test."""

    namespace = "team-a"

    def __init__(self, job: FineTuneJob, *pod_lists: list[dict[str, Any]]) -> None:
        self.job = job
        self.pod_lists = list(pod_lists)
        self.label_queries: list[Mapping[str, str]] = []

    async def get(self, name: str) -> dict[str, Any]:
        return stored(self.job)

    async def watch(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield stored(self.job)

    async def pods(self, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        self.label_queries.append(wanted)
        return self.pod_lists.pop(0) if len(self.pod_lists) > 1 else self.pod_lists[0]

    async def log(self, pod: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        yield f"log of {pod}\n".encode()


def printed(cluster: FakeCluster, capfd: pytest.CaptureFixture[str], follow: bool = False, **wanted: Any) -> Any:
    code = asyncio.run(logs(cluster, "intents", Wanted(**wanted), follow, None))  # type: ignore[arg-type]
    out, err = capfd.readouterr()
    return code, out, err


class TestLogs:
    def test_prints_the_log_of_the_latest_run(self, capfd: pytest.CaptureFixture[str]) -> None:
        cluster = FakeCluster(a_job(), [a_pod(Stage.PREPARE, state="terminated"), a_pod(Stage.TRAIN, 2)])
        assert printed(cluster, capfd) == (0, "log of intents-r1-train-2-0\n", "")

    def test_prints_the_log_of_the_requested_stage_attempt_and_worker(self, capfd: pytest.CaptureFixture[str]) -> None:
        cluster = FakeCluster(a_job(), [a_pod(Stage.TRAIN, worker=0), a_pod(Stage.TRAIN, worker=1)])
        assert printed(cluster, capfd, stage=Stage.TRAIN, attempt=1, worker=1)[1] == "log of intents-r1-train-1-1\n"
        assert cluster.label_queries[0]["finetune.dev/stage"] == "train"
        assert cluster.label_queries[0]["finetune.dev/attempt"] == "1"

    def test_follow_continues_from_stage_to_stage(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finetune_cli.logs._POLL_SECONDS", 0.0)
        done, going = a_pod(Stage.PREPARE, state="terminated"), a_pod(Stage.TRAIN)
        waiting = a_pod(Stage.PREPARE, state="waiting")
        cluster = FakeCluster(
            a_job_after(*[succeeded(stage) for stage in STAGES]), [done], [done, going], [done, going]
        )
        code, out, err = printed(cluster, capfd, follow=True)
        assert (code, out) == (0, "log of intents-r1-prepare-1-0\nlog of intents-r1-train-1-0\n")
        assert err == "==> prepare, attempt 1\n==> train, attempt 1\n"
        assert printed(FakeCluster(a_job(), [waiting], [done]), capfd, follow=True, stage=Stage.PREPARE)[0] == 0

    def test_of_a_missing_worker_lists_the_existing_ones(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, _, err = printed(
            FakeCluster(a_job(), [a_pod(Stage.TRAIN), a_pod(Stage.TRAIN, worker=1)]), capfd, worker=7
        )
        assert (code, err) == (66, "finetune: there is no worker 7; the workers are 0 to 1.\n")

    def test_of_a_waiting_container_prints_the_reason(self, capfd: pytest.CaptureFixture[str]) -> None:
        waits = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        pod = a_pod(Stage.TRAIN, containerStatuses=[{"name": "trainer", "state": waits}])
        code, _, err = printed(FakeCluster(a_job(), [pod]), capfd)
        assert code == 66
        assert err == (
            "finetune: pod intents-r1-train-1-0 has not started, so there is no log yet: "
            "ImagePullBackOff: no such image\n"
        )

    def test_ignores_pods_without_run_labels(self) -> None:
        pod = a_pod(Stage.TRAIN)
        pod["metadata"]["labels"] = {"finetune.dev/job": "intents"}
        assert parse_pod(pod) is None
        assert chosen([], 0) is None


class TestWatch:
    def test_json_output_is_one_document_at_the_end(self, capfd: pytest.CaptureFixture[str]) -> None:
        cluster = FakeCluster(a_job_after(failed(Stage.PREPARE, Reason.BAD_DATA)))
        assert asyncio.run(watch(cluster, "intents", Output.JSON)) == 65  # type: ignore[arg-type]
        printed = json.loads(capfd.readouterr().out)
        assert (printed["phase"], printed["exitCode"], printed["job"]) == ("Failed", 65, stored(cluster.job))


class TestOutputOption:
    def test_rejects_a_format_that_the_command_does_not_have_and_lists_its_formats(self) -> None:
        result = CliRunner().invoke(app, ["suspend", "intents", "-o", "yaml"])
        assert result.exit_code == 2
        assert all(word in result.output for word in ("'yaml' is not one of", "'text'", "'name'"))

    def test_stage_option_has_every_stage(self) -> None:
        assert get_args(job_commands.StageName) == tuple(Stage)


@pytest.mark.parametrize(
    ("called", "name"),
    [("/usr/bin/finetune", "finetune"), ("/x/kubectl-finetune", "kubectl finetune"), ("main.py", "finetune")],
)
def test_program_name_is_the_command_that_the_user_typed(
    called: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [called])
    assert program() == name


def test_page_of_a_rejected_job_names_the_gate() -> None:
    gate = {"metric": Metric.ACCURACY, "minimum": 0.9, "value": 0.84, "passed": False}
    from finetune_api.evaluation import GateResult

    job = a_job_after(
        succeeded(Stage.PREPARE),
        succeeded(Stage.TRAIN),
        succeeded(Stage.EVALUATE, evaluation=an_evaluation(GateResult(**gate))),
    )
    assert page_of(job)[0].endswith(": Rejected")
    assert page_of(job)[-3:-1] == [
        "report      s3://adapters/team-a/intents/r1/evaluated/report.html",
        "Not published: accuracy is 0.84, 0.06 below the minimum 0.9.",
    ]
    assert page_of(job)[-1].startswith("Relax the gate in spec.evaluation")
