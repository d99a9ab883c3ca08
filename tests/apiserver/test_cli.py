"""``finetune`` against a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.failures import Reason
from finetune_api.stage import StageError
from tests.apiserver.control_plane import ControlPlane, clean_environment, wait_until
from tests.apiserver.desk import Desk

TIMEOUT_SECONDS = 180


class Shell:
    """Runs ``finetune`` commands in the namespace of a test."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        self.directory = directory
        self.environment = clean_environment(KUBECONFIG=str(kubeconfig))

    def write(self, document: Mapping[str, Any], file: str = "job.yaml") -> str:
        (self.directory / file).write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_cli.main", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, out, err

    def out(self, *arguments: str) -> str:
        """Standard output of a command that must succeed."""
        code, out, err = self.run(*arguments)
        assert code == 0, out + err
        return out


@pytest.fixture
def shell(api_server: ControlPlane, desk: Desk, tmp_path: Path) -> Shell:
    kubeconfig = api_server.write_kubeconfig("admin", api_server.admin_token, namespace=desk.namespace)
    return Shell(kubeconfig, tmp_path)


def a_manifest(desk: Desk, **spec: Any) -> dict[str, Any]:
    """A manifest without a namespace."""
    document = desk.manifest(**spec)
    return {**document, "metadata": {"name": "intents"}}


class TestSubmit:
    def test_prints_created_configured_or_unchanged(self, shell: Shell, desk: Desk) -> None:
        file = shell.write(a_manifest(desk))
        name = "finetunejob.finetune.dev/intents"
        assert shell.out("submit", file) == f"{name} created in namespace {desk.namespace}\n"
        assert shell.out("submit", file) == f"{name} unchanged in namespace {desk.namespace}\n"
        shell.write(a_manifest(desk, training={"epochs": 2}))
        assert shell.out("submit", file) == f"{name} configured in namespace {desk.namespace}\n"
        assert desk.job()["spec"]["training"] == {"epochs": 2}

    def test_stores_the_manifest_without_defaults(self, shell: Shell, desk: Desk) -> None:
        shell.out("submit", shell.write(a_manifest(desk, training={"epochs": None})))
        assert desk.job()["spec"] == {**a_manifest(desk)["spec"], "training": {}}

    def test_accepts_the_output_of_get(self, shell: Shell, desk: Desk) -> None:
        shell.out("submit", shell.write(a_manifest(desk)))
        (shell.directory / "again.yaml").write_text(shell.out("get", "intents", "-o", "yaml"))
        assert "unchanged" in shell.out("submit", "again.yaml")

    def test_names_the_field_manager_of_a_conflict(self, shell: Shell, desk: Desk) -> None:
        desk.apply(manager="argocd", training={"epochs": 5})
        file = shell.write(a_manifest(desk, training={"epochs": 2}))
        code, _, err = shell.run("submit", file)
        assert code == 64
        assert "spec.training.epochs was set by argocd" in err
        assert "configured" in shell.out("submit", "--force-conflicts", file)

    def test_takes_over_fields_set_by_suspend(self, shell: Shell, desk: Desk) -> None:
        file = shell.write(a_manifest(desk, suspend=False))
        shell.out("submit", file)
        shell.out("suspend", "intents")
        assert "configured" in shell.out("submit", file)
        assert desk.job()["spec"]["suspend"] is False

    def test_sends_nothing_if_one_file_is_invalid(self, shell: Shell, desk: Desk) -> None:
        good = shell.write(a_manifest(desk))
        wrong = shell.write(a_manifest(desk, dataset={"train": {"uri": "file://./data.jsonl"}}), "wrong.yaml")
        code, _, err = shell.run("submit", good, wrong)
        assert code == 64
        assert err.startswith("wrong.yaml:12: spec.dataset.train.uri is 'file://./data.jsonl', which pods cannot read;")
        assert desk.api.list("FineTuneJob", desk.namespace) == []

    def test_reports_a_missing_namespace(self, shell: Shell, desk: Desk) -> None:
        code, _, err = shell.run("submit", shell.write(a_manifest(desk)), "-n", "nowhere")
        assert code == 66
        assert "There is no namespace nowhere" in err


class TestGet:
    def test_prints_the_columns_of_kubectl(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        heading, row = shell.out("get").splitlines()
        assert heading.split() == ["NAME", "STATUS", "PROGRESS", "ETA", "BASELINE", "SCORE", "AGE"]
        assert row.startswith("intents")
        assert shell.out("get", "-A").splitlines()[0].startswith("NAMESPACE   NAME")
        assert shell.out("get", "-o", "name") == "finetunejob.finetune.dev/intents\n"
        assert json.loads(shell.out("get", "-o", "json"))["items"][0]["metadata"]["name"] == "intents"

    def test_reports_an_empty_list(self, shell: Shell, desk: Desk) -> None:
        assert shell.run("get") == (0, "", f"No FineTuneJobs in namespace {desk.namespace}.\n")
        code, _, err = shell.run("get", "other")
        assert code == 66
        assert err.startswith(f"finetune: There is no FineTuneJob other in namespace {desk.namespace};")

    @pytest.mark.usefixtures("operator")
    def test_shows_all_results_of_a_finished_job(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        shown = shell.out("get", "intents")
        assert f"{desk.namespace}/intents, revision 1: Succeeded" in shown
        assert "✔ prepare   done in" in shown
        assert "accuracy        0.7900  0.8400  +0.0500" in shown
        assert "artifact    s3://adapters/team-a/intents/r1/artifact" in shown


class TestListAndHistory:
    @pytest.mark.usefixtures("operator")
    def test_show_results_and_revisions(self, shell: Shell, desk: Desk) -> None:
        assert shell.run("list") == (0, "", f"No FineTuneJobs in namespace {desk.namespace}.\n")
        desk.apply()
        desk.run_all()
        heading, row = shell.out("list").splitlines()
        assert heading.split() == ["NAME", "PHASE", "PROGRESS", "SCORE", "VERDICT", "AGE"]
        assert row.split()[:5] == ["intents", "Succeeded", "published", "accuracy", "0.8400"]
        assert shell.out("list", "-A").startswith("NAMESPACE   NAME")
        desk.apply(evaluation={"gates": [{"metric": "accuracy", "minimum": 0.5}]})
        desk.until(lambda status: status["revision"] == 2, "revision 2")
        first, second = json.loads(shell.out("history", "intents", "-o", "json"))["revisions"]
        assert (first["phase"], first["score"], second["changed"]) == ("Succeeded", "0.8400", "evaluation")
        assert first["started"] <= first["completed"] <= second["started"]

    def test_result_that_is_not_there_is_reported(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        assert shell.run("predict", "intents", "a text")[::2] == (
            66,
            "finetune: intents has published no artifact (Pending).\n",
        )
        assert shell.run("compare", "intents", "intents")[::2] == (
            66,
            "finetune: intents has no evaluation (Pending).\n",
        )


class TestWatch:
    @pytest.mark.usefixtures("operator")
    def test_ends_when_the_job_finishes(self, shell: Shell, desk: Desk) -> None:
        file = shell.write(a_manifest(desk))
        with shell.start("submit", "--watch", file) as process:
            assert process.stdout
            while process.stdout.readline().strip() != "prepare: started":
                assert process.poll() is None
            desk.run_all()
            out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0
        lines = out.splitlines()
        assert any(line.startswith("train: done in") for line in lines)
        assert "artifact  s3://adapters/team-a/intents/r1/artifact" in lines

    @pytest.mark.usefixtures("operator")
    def test_exit_code_is_that_of_the_failure(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        error = StageError(reason=Reason.BAD_DATA, message="intents.jsonl:3 has no label.", exit_code=65)
        desk.kubelet.break_(desk.child("prepare"), 65, error)
        desk.until_phase("Failed")
        code, out, _ = shell.run("watch", "intents")
        assert code == 65
        assert "To fix this, change the manifest, the data, or the permissions of its Secrets." in out
        assert f"finetune logs intents -n {desk.namespace} --stage prepare --attempt 1" in out

    @staticmethod
    def watches(process: subprocess.Popen[str]) -> None:
        """Wait until it shows the job."""
        assert process.stdout
        assert process.stdout.readline()

    @pytest.mark.usefixtures("operator")
    def test_ctrl_c_does_not_stop_the_job(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        with shell.start("watch", "intents") as process:
            self.watches(process)
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 130
        assert err == f"The job keeps running; watch it again with finetune watch intents -n {desk.namespace}.\n"
        assert "deletionTimestamp" not in desk.job()["metadata"]

    @pytest.mark.usefixtures("operator")
    def test_ends_when_the_job_is_deleted(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        with shell.start("watch", "intents") as process:
            self.watches(process)
            desk.api.delete("FineTuneJob", "intents", desk.namespace)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 66
        assert "intents was deleted" in err


class TestChange:
    def test_suspend_and_resume(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        assert shell.out("suspend", "intents") == "finetunejob.finetune.dev/intents suspended\n"
        assert desk.job()["spec"]["suspend"] is True
        assert shell.out("suspend", "intents") == "finetunejob.finetune.dev/intents is already suspended\n"
        assert shell.out("resume", "intents", "-o", "name") == "finetunejob.finetune.dev/intents\n"
        assert desk.job()["spec"]["suspend"] is False

    @pytest.mark.usefixtures("operator")
    def test_cancel_deletes_an_unfinished_job(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        desk.child("prepare")
        out = shell.out("cancel", "intents")
        assert "deleted; its pods are stopped, and its files are kept under s3://adapters/" in out
        wait_until(lambda: desk.api.find("FineTuneJob", "intents", desk.namespace) is None, "the job is deleted")

    @pytest.mark.usefixtures("operator")
    def test_cancel_keeps_the_record_of_a_finished_job(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        code, _, err = shell.run("cancel", "intents")
        assert code == 64
        assert "intents has finished (Succeeded), so there is nothing to cancel" in err
        assert "its artifact is kept at s3://adapters" in shell.out("cancel", "intents", "--force")


class TestLogs:
    @pytest.mark.usefixtures("operator")
    def test_of_a_pending_pod_print_the_cause(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        desk.kubelet.unschedulable(desk.child("prepare"), "0/3 nodes are available.")
        code, _, err = shell.run("logs", "intents")
        assert code == 66
        assert "has not started, so there is no log yet: 0/3 nodes are available." in err

    def test_without_pods_are_reported(self, shell: Shell, desk: Desk) -> None:
        desk.apply()
        code, _, err = shell.run("logs", "intents", "--stage", "train")
        assert code == 66
        assert "intents (Pending) has no pods of stage train" in err


class TestErrors:
    def test_forbidden_request_is_reported(self, shell: Shell, desk: Desk, api_server: ControlPlane) -> None:
        desk.api.create("ServiceAccount", {"metadata": {"name": "jane", "namespace": desk.namespace}})
        path = desk.api.path("ServiceAccount", desk.namespace, "jane")
        token = desk.api.request("POST", f"{path}/token", {"spec": {}})["status"]["token"]
        shell.environment["KUBECONFIG"] = str(api_server.write_kubeconfig("jane", token))
        code, _, err = shell.run("get", "-n", desk.namespace)
        assert code == 77
        assert err == (
            f"finetune: system:serviceaccount:{desk.namespace}:jane may not list finetunejobs in namespace "
            f"{desk.namespace}; ask the cluster administrator for the permission, or choose another namespace "
            "with -n.\n"
        )

    def test_rejected_credentials_are_reported(self, shell: Shell, api_server: ControlPlane) -> None:
        shell.environment["KUBECONFIG"] = str(api_server.write_kubeconfig("nobody", "wrong"))
        code, _, err = shell.run("get")
        assert code == 77
        assert "rejected the credentials" in err

    def test_field_that_only_the_server_rejects_is_named(self, shell: Shell, desk: Desk) -> None:
        document = a_manifest(desk)
        document["metadata"]["labels"] = {"team": "not a label!"}
        code, _, err = shell.run("submit", shell.write(document))
        assert code == 64
        assert err.startswith("job.yaml:5: metadata.labels: Invalid value")

    def test_unreachable_cluster_is_named(self, shell: Shell, api_server: ControlPlane) -> None:
        kubeconfig = api_server.write_kubeconfig("admin", "x", url="http://127.0.0.1:1")
        code, _, err = shell.run("get", "--kubeconfig", str(kubeconfig))
        assert code == 69
        assert err == "finetune: The cluster at http://127.0.0.1:1 cannot be reached: connection refused.\n"
