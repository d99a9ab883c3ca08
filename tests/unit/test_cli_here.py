"""The commands that show jobs of this machine, and the rule for where a job is."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage
from finetune_cli import local_logs, local_watch
from finetune_cli.here import view_here
from finetune_cli.local import StateDirectory
from finetune_cli.local.jobs import LocalJob, manifest_path, state_path
from finetune_cli.local.state import RunRecord
from finetune_cli.main import app
from finetune_cli.view import View
from finetune_core.policies.revision import current_revision
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, RunId
from finetune_core.times import to_text
from tests.builders import NOON, a_job, a_progress, a_run, after, succeeded
from tests.usual_stages import STAGES

STAGES_DONE = [succeeded(stage) for stage in STAGES]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(tmp_path)


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def a_job_after(*runs: ObservedRun, job: FineTuneJob | None = None) -> FineTuneJob:
    job = job or a_job()
    started = job.model_copy(update={"status": plan(job, Observed(), NOON).status})
    status = plan(started, Observed(runs), after(seconds=11)).status
    return job.model_copy(update={"status": status})


def saved(job: FineTuneJob, manifest: str = "job.yaml") -> StateDirectory:
    """The state that `finetune run` leaves of a job."""
    source = manifest_path(manifest)
    with StateDirectory.locked(state_path(Path("home").absolute(), job, source)) as state:
        state.record_manifest(source)
        state.save(job)
    return state


def logged(state: StateDirectory, run: RunId, text: str, seconds: float, ended: bool = True) -> Path:
    """A run with a log, which started some seconds after noon."""
    directory = state.run(run)
    directory.path.mkdir(parents=True)
    directory.config.write_text("{}")
    directory.log.write_text(text)
    started_at = after(seconds=seconds).isoformat()
    directory.write_record(
        RunRecord(pid=0, identity="", spec_digest="", started_at=started_at, finished_at=started_at if ended else None)
    )
    return directory.log


class TestList:
    def test_shows_phase_progress_score_verdict_and_manifest(self) -> None:
        saved(a_job_after(*STAGES_DONE), "a.yaml")
        Path("a.yaml").touch()
        saved(a_job_after(succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=a_progress())), "b.yaml")
        lines = [line.split("   ") for line in finetune("list", "--local").stdout.splitlines()]
        cells = sorted(([cell.strip() for cell in line if cell.strip()] for line in lines), key=lambda row: row[1])
        _, stopped, published = cells
        assert published[:4] == ["intents", "Succeeded", "published", "accuracy 0.8400"]
        assert published[-1] == str(Path("a.yaml").absolute())
        assert stopped[:3] == ["intents", "Stopped", "train"]
        assert stopped[-1] == f"{Path('b.yaml').absolute()} (gone)"
        items = json.loads(finetune("list", "--local", "-o", "json").stdout)["items"]
        assert {Path(item["manifest"]).name: item.get("manifestGone") for item in items} == {
            "a.yaml": None,
            "b.yaml": True,
        }

    def test_json_output_and_progress_of_a_running_job(self) -> None:
        state = saved(a_job_after(succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=a_progress())))
        with StateDirectory.locked(state.path):
            (row,) = json.loads(finetune("list", "--local", "-o", "json").stdout)["items"]
        assert (row["phase"], row["progress"]) == ("Training", "train: 40/120 (33 %)")

    def test_without_jobs_says_how_to_start_one(self) -> None:
        assert finetune("list", "--local").stderr == (
            "No jobs on this machine; start one with finetune run MANIFEST.\n"
        )


class TestWhere:
    @pytest.mark.parametrize("command", ["get", "watch", "logs", "history"])
    def test_manifest_is_local_and_name_is_on_the_cluster(self, command: str) -> None:
        saved(a_job_after(*STAGES_DONE))
        on_cluster = finetune(command, "intents")
        assert (on_cluster.exit_code, on_cluster.stderr.split(":")[:2]) == (64, ["finetune", " No cluster"])
        assert on_cluster.stderr.endswith("For jobs of this machine, add --local.\n")
        for arguments in (["job.yaml"], ["intents", "--local"]):
            assert "No cluster" not in finetune(command, *arguments).stderr

    def test_contradicting_options_are_refused(self) -> None:
        assert finetune("get", "job.yaml", "--context", "prod").exit_code == 2
        assert finetune("list", "--local", "-A").exit_code == 2
        assert finetune("logs", "job.yaml", "--worker", "1").exit_code == 2

    @pytest.mark.parametrize("command", ["suspend", "resume", "cancel"])
    def test_commands_for_clusters_refuse_a_manifest(self, command: str) -> None:
        result = finetune(command, "job.yaml")
        assert result.exit_code == 2
        assert (
            "job.yaml is no name of a job on a cluster; a job on this machine is stopped with Ctrl-C" in result.stderr
        )

    def test_unknown_job_has_the_exit_code_of_not_found(self) -> None:
        result = finetune("get", "job.yaml")
        assert (result.exit_code, result.stderr) == (
            66,
            "finetune: No job job.yaml was run on this machine; start it with finetune run job.yaml.\n",
        )


class TestGetAndWatch:
    def test_page_of_a_stopped_job(self) -> None:
        state = saved(a_job_after(succeeded(Stage.PREPARE), a_run(Stage.TRAIN)))
        lines = finetune("get", "job.yaml").stdout.splitlines()
        assert lines[0] == "team-a/intents, revision 1: Stopped"
        assert lines[-2:] == [f"manifest    {Path('job.yaml').absolute()}", f"state       {state.path}"]

    def test_json_is_the_object(self) -> None:
        saved(a_job_after(*STAGES_DONE))
        document = json.loads(finetune("get", "job.yaml", "-o", "json").stdout)
        assert (document["kind"], document["status"]["phase"]) == ("FineTuneJob", "Succeeded")

    def test_watch_of_a_finished_job_prints_its_result(self) -> None:
        saved(a_job_after(*STAGES_DONE))
        result = finetune("watch", "job.yaml")
        assert result.exit_code == 0
        assert "artifact  s3://adapters/team-a/intents/r1/artifact" in result.stdout

    def test_watch_ends_with_the_process_that_runs_the_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        state = saved(a_job_after(a_run(Stage.PREPARE)))
        with running(state) as run:

            def view_of_a_job_that_ends_then(local: LocalJob) -> View:
                view = view_here(local)
                state.save(a_job_after(*STAGES_DONE))
                run.set()
                return view

            monkeypatch.setattr(local_watch, "view_here", view_of_a_job_that_ends_then)
            result = finetune("watch", "job.yaml")
        assert result.exit_code == 0
        assert result.stdout.startswith("team-a/intents, revision 1\n")
        assert "prepare: started" in result.stdout
        assert "publish: done in 10s" in result.stdout


class TestLogs:
    def test_prints_the_latest_run_or_the_chosen_one(self) -> None:
        state = saved(a_job_after(*STAGES_DONE))
        logged(state, RunId(2, Stage.PREPARE, 1), "old\n", seconds=0)
        logged(state, RunId(1, Stage.PREPARE, 2), "a\nb\nc\n", seconds=5)
        assert finetune("logs", "job.yaml").stdout == "a\nb\nc\n"
        assert finetune("logs", "job.yaml", "--tail", "1").stdout == "c\n"
        assert finetune("logs", "job.yaml", "--attempt", "1").stdout == "old\n"
        result = finetune("logs", "job.yaml", "--stage", "train")
        assert (result.exit_code, result.stderr) == (
            66,
            f"finetune: intents (Succeeded) has no log of stage train in {state.path}.\n",
        )

    def test_follows_from_stage_to_stage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        state = saved(a_job_after(a_run(Stage.PREPARE)))
        logged(state, RunId(1, Stage.PREPARE, 1), "one\n", seconds=0)

        with running(state) as run:

            def go_on(_: float) -> None:
                if not run.is_set():
                    logged(state, RunId(1, Stage.TRAIN, 1), "two\n", seconds=5)
                    run.set()

            monkeypatch.setattr(local_logs, "time", SimpleNamespace(sleep=go_on))
            result = finetune("logs", "job.yaml", "-f")
        assert result.stdout == "one\ntwo\n"
        assert result.stderr == "==> prepare, attempt 1\n==> train, attempt 1\n"


class TestHistory:
    def test_shows_what_changed_in_each_revision(self) -> None:
        first = a_job_after(*STAGES_DONE)
        changed = a_job(training={"epochs": 1}, evaluation={"gates": [{"metric": "accuracy", "minimum": 0.5}]})
        status = current_revision(changed.spec, first.status, Observed(), NOON + timedelta(hours=1))
        state = saved(changed.model_copy(update={"status": status}))
        rows = finetune("history", "job.yaml").stdout.splitlines()
        assert [row.split()[:2] for row in rows[1:]] == [["1", "Succeeded"], ["2", "Stopped"]]
        assert "0.8400" in rows[1]
        assert rows[2].endswith("model, task, data, method or training")
        for number, spec in ((1, a_job().spec), (2, changed.spec)):
            run = state.run(RunId(number, Stage.PREPARE, 1))
            run.path.mkdir(parents=True)
            run.config.write_text(_stage_config(number, spec.model_dump_json(exclude_none=True)))
        assert (
            finetune("history", "job.yaml")
            .stdout.splitlines()[2]
            .endswith(
                "training.epochs unset → 1, "
                "evaluation.gates[0].metric unset → accuracy, evaluation.gates[0].minimum unset → 0.5"
            )
        )
        (one, _) = json.loads(finetune("history", "job.yaml", "-o", "json").stdout)["revisions"]
        assert (one["started"], one["completed"]) == (to_text(NOON), to_text(after(seconds=11)))
        assert one["artifact"] == "s3://adapters/team-a/intents/r1/artifact"


def _stage_config(revision: int, spec: str) -> str:
    job = {"namespace": "team-a", "name": "intents", "uid": "u", "revision": revision, "specDigest": "d"}
    job |= {"trainingRevision": revision, "trainingDigest": "d"}
    world = {"workers": 1, "processesPerWorker": 1, "device": "cpu"}
    return json.dumps({"job": job, "stage": "prepare", "attempt": 1, "world": world, "spec": json.loads(spec)})


class running:  # noqa: N801
    """Lock the state of a job, as a process that runs it, until the event is set."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._over = threading.Event()
        self._locked = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with StateDirectory.locked(self._state.path):
            self._locked.set()
            self._over.wait(30)

    def __enter__(self) -> threading.Event:
        self._thread.start()
        self._locked.wait(30)
        return self._over

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
