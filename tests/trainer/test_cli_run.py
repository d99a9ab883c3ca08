"""``finetune run`` from end to end: the command, the real trainer, a tiny model, file:// storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import FineTuneJobStatus
from finetune_cli.local import StateDirectory
from finetune_cli.local.jobs import manifest_path, state_path
from finetune_cli.manifest import load
from tests.trainer.stages import classification_job

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 900

MANIFEST = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: tiny
spec:
  model: {{uri: file://./base}}
  task: {{type: TextClassification}}
  dataset:
    train: {{uri: file://./train.jsonl}}
  training:
    maxSteps: {steps}
    batchSize: 16
    learningRate: 5e-3
    checkpoint: {{everySteps: {every}}}
  distributed: {{workers: {workers}, gpusPerWorker: 0}}
  evaluation:
    publishWorse: true
    gates:
      - {{metric: accuracy, {gate}}}
  output: {{uri: file://./out}}
"""


class Desk:
    """A directory with a manifest, a model, data and a state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        classification_job(root)
        self.environment = {
            **os.environ,
            "FINETUNE_HOME": str(root / "home"),
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("operator", "trainer_image")),
        }

    def write(self, steps: int = 12, every: int = 4, workers: int = 1, gate: str = "minimum: 0") -> Desk:
        manifest = MANIFEST.format(steps=steps, every=every, workers=workers, gate=gate)
        (self.root / "job.yaml").write_text(manifest)
        return self

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_cli.main", "run", "job.yaml", *options],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finetune(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of any command."""
        command = [sys.executable, "-m", "finetune_cli.main", *arguments]
        ended = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        return ended.returncode, ended.stdout, ended.stderr

    def run(self, *options: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        with self.start(*options) as process:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, out, err

    def job(self) -> dict[str, Any]:
        (file,) = (self.root / "home" / "default").glob("tiny.*/job.json")
        document: dict[str, Any] = json.loads(file.read_text())
        return document


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def read_until(process: subprocess.Popen[str], found: Callable[[str], bool]) -> list[str]:
    """The lines of standard output up to the one that was awaited."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found(line):
            return lines
    raise AssertionError("".join(lines))


def test_manifest_to_published_adapter_with_ctrl_c_and_a_gate_in_between(desk: Desk) -> None:
    with desk.write(steps=60, every=1000, workers=2, gate="minimumImprovement: 1").start() as process:
        lines = read_until(process, lambda line: line.startswith("train: ") and "/60 steps" in line)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert lines[0] == "default/tiny, revision 1\n"
    assert process.returncode == 130, out
    step = desk.job()["status"]["checkpoint"]["step"]
    assert out.splitlines()[-1] == f"Stopped after the checkpoint of step {step}; run the same command to resume."
    assert desk.job()["status"]["phase"] == "Suspended"

    code, out, _ = desk.run()
    assert code == 1, out
    assert "\x1b" not in out
    assert "Not published: accuracy" in out
    stages = {stage["name"]: stage for stage in desk.job()["status"]["stages"]}
    assert (stages["prepare"]["attempt"], stages["train"]["attempt"], stages["train"]["restarts"]) == (1, 2, 0)
    revision = desk.root / "out" / "default" / "tiny" / "r1"
    report = revision / "evaluated" / "report.html"
    assert f"report    {report}" in out
    assert report.exists()
    assert not (revision / "artifact").exists()

    code, out, _ = desk.write(steps=60, every=1000, workers=2).run()
    assert code == 0, out
    artifact = desk.root / "out" / "default" / "tiny" / "r2" / "artifact"
    assert f"artifact  {artifact}" in out
    assert (artifact / "manifest.json").exists()
    assert (artifact / "report.html").exists()
    assert "passed  accuracy at least 0" in out
    assert not (revision.parent / "r2" / "checkpoints").exists(), "another gate trains nothing"

    code, out, err = desk.run("-o", "json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["artifact"]["uri"] == artifact.as_uri()
    assert document["job"]["status"]["phase"] == "Succeeded"
    assert all(Path(log["path"]).exists() for log in document["logs"])

    code, out, err = desk.finetune("predict", "job.yaml", "the red fox", "-o", "json")
    assert code == 0, err
    (prediction,) = json.loads(out)["predictions"]
    assert prediction["label"] == max(prediction["scores"], key=prediction["scores"].get)


def test_dry_run_checks_data_and_model_and_leaves_nothing(desk: Desk) -> None:
    code, out, err = desk.write().run("--dry-run")
    assert code == 0, out + err
    assert "\ndata      " in out
    assert "\nmemory    about " in out
    assert not (desk.root / "home").exists()
    assert not (desk.root / "out").exists()
    assert ", revision 1\n" in out
    manifest = str(desk.root / "job.yaml")
    job = load(manifest)
    status = FineTuneJobStatus(revision=4, spec_digest="sha256:0")
    with StateDirectory.locked(state_path(desk.root / "home", job, manifest_path(manifest))) as state:
        state.record_manifest(manifest_path(manifest))
        state.save(job.model_copy(update={"status": status}))
    assert ", revision 5\n" in desk.run("--dry-run")[1]
    (desk.root / "train.jsonl").write_text("{broken\n")
    code, out, _ = desk.run("--dry-run", "-o", "json")
    assert (code, json.loads(out)["failure"]["reason"]) == (65, "BadData")


def test_manifest_that_init_writes_can_be_run(desk: Desk) -> None:
    code, out, err = desk.finetune("init", "train.jsonl", "--model", "base", "--file", "job.yaml")
    assert code == 0, err
    assert out.startswith("train.jsonl was read as JSON lines, for TextClassification; ")
    assert desk.finetune("lint", "job.yaml")[0] == 0
    code, out, err = desk.run("--dry-run", "--set", "distributed.gpusPerWorker=0")
    assert code == 0, out + err


def test_invalid_manifest_is_reported_with_file_and_line(desk: Desk) -> None:
    manifest = desk.write().root / "job.yaml"
    manifest.write_text(manifest.read_text().replace("learningRate", "learningrate"))
    code, out, err = desk.run()
    assert (code, out) == (64, "")
    assert err == "job.yaml:13: spec.training.learningrate is not a field; did you mean learningRate?\n"
    code, out, _ = desk.run("-o", "json")
    assert json.loads(out)["errors"][0]["line"] == 13


def test_bad_data_has_the_exit_code_of_the_stage(desk: Desk) -> None:
    data = desk.write().root / "train.jsonl"
    data.write_text(data.read_text() + "{broken\n")
    code, out, _ = desk.run()
    assert code == 65, out
    assert "Failed in prepare, attempt 1 (BadData): " in out
    assert "To fix this, change" in out


def test_state_directory_that_is_not_writable(desk: Desk) -> None:
    desk.write().environment["FINETUNE_HOME"] = str(desk.root / "job.yaml" / "home")
    code, out, err = desk.run()
    assert (code, out) == (77, "")
    assert err.startswith("finetune: Cannot write to ")
    assert len(err.splitlines()) == 1
