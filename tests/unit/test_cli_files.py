"""What is said of manifest files before a cluster sees them: lint, submit, and what has no meaning on one machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_cli.lint import findings, lint, summary
from finetune_cli.manifest import ManifestError
from finetune_cli.output import Output
from finetune_cli.run import cluster_only
from finetune_cli.submit import submissions
from tests.builders import a_job

GOOD = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: intents, labels: {team: a}}
spec:
  model: {uri: "hf://owner/encoder"}
  task: {type: TextClassification}
  dataset: {train: {uri: "s3://data/intents.jsonl"}}
  training: {learningRate: 2e-4, epochs: ~}
  output: {uri: "s3://adapters"}
"""
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(*paths: str) -> list[str]:
    return [str(problem) for problem in findings(paths).problems]


class TestLint:
    def test_names_file_and_line_of_everything_in_every_document(self, folder: Path) -> None:
        bad = GOOD.replace("epochs: ~", "epochs: 0").replace("task: {type: Text", "task: {type: Tetx")
        (folder / "jobs.yaml").write_text(f"{SECRET}---\n{GOOD}---\n{bad}")
        assert problems("jobs.yaml") == [
            "jobs.yaml:20: spec.task.type is 'TetxClassification', and must be one of TextClassification, "
            "InstructionTuning; did you mean TextClassification?",
            "jobs.yaml:22: spec.training.epochs must be above 0; it is 0",
        ]

    def test_looks_through_directories_and_leaves_alone_what_holds_no_job(self, folder: Path) -> None:
        (folder / "team" / ".git").mkdir(parents=True)
        (folder / "team" / "job.yml").write_text(GOOD.replace("hf://", "hff://"))
        (folder / "team" / "template.yaml").write_text("a: {{ .Values.b }}\n")
        (folder / "team" / ".git" / "job.yaml").write_text("kind: FineTuneJob")
        (folder / "team" / "notes.txt").write_text("kind: FineTuneJob")
        assert [line.partition(":")[0] for line in problems("team")] == ["team/job.yml"]

    def test_of_a_misspelt_kind_says_so(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("FineTuneJob", "FinetuneJob"))
        assert problems("job.yaml") == ["job.yaml:2: kind is 'FinetuneJob', and must be FineTuneJob"]

    def test_of_a_file_that_cannot_be_read_says_so(self, folder: Path) -> None:
        (folder / "job.yaml").write_text("a: [")
        assert problems("other.yaml") == ["other.yaml:1: cannot be read: no such file or directory"]
        assert problems("job.yaml")[0].startswith("job.yaml:1: is not YAML: ")

    def test_takes_addresses_of_this_machine(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("s3://adapters", "file://./out"))
        assert problems("job.yaml") == []

    def test_says_how_much_it_has_looked_at(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(f"{GOOD}---\n{SECRET}")
        (folder / "secret.yaml").write_text(SECRET)
        assert summary(findings(["job.yaml"]), ["job.yaml"]) == (
            "1 FineTuneJob in 1 file checked, nothing is wrong; 1 other object skipped"
        )
        assert summary(findings(["secret.yaml"]), ["secret.yaml"]) == (
            "no FineTuneJob in secret.yaml; 1 other object skipped"
        )

    def test_as_json(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("epochs", "epoch"))
        assert lint(["job.yaml"], Output.JSON) == 64
        assert json.loads(capsys.readouterr().out) == {
            "jobs": 1,
            "files": 1,
            "skipped": 0,
            "errors": [
                {
                    "file": "job.yaml",
                    "line": 8,
                    "message": "spec.training.epoch is not a field; did you mean epochs?",
                }
            ],
        }


class TestSubmit:
    def test_sends_what_is_written_but_nulls_and_what_only_the_server_writes(self, folder: Path) -> None:
        text = GOOD.replace("name: intents,", "name: intents, uid: x, resourceVersion: '7', managedFields: [],")
        (folder / "job.yaml").write_text(text + "status: {phase: Failed}\n")
        (found,) = submissions(["job.yaml"], "team-a", is_given=False)
        assert found.manifest["metadata"] == {"namespace": "team-a", "name": "intents", "labels": {"team": "a"}}
        assert found.manifest["spec"]["training"] == {"learningRate": 2e-4}
        assert "status" not in found.manifest

    def test_keeps_the_namespace_that_is_written(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("name: intents,", "name: intents, namespace: team-b,"))
        (found,) = submissions(["job.yaml"], "team-a", is_given=False)
        assert found.manifest["metadata"]["namespace"] == "team-b"
        with pytest.raises(ManifestError, match=r"job\.yaml:3: metadata\.namespace is 'team-b', and -n says 'team-a'"):
            submissions(["job.yaml"], "team-a", is_given=True)

    def test_takes_every_job_and_says_what_it_leaves_out(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "a.yaml").write_text(f"{SECRET}---\n{GOOD}---\n{GOOD.replace('name: intents', 'name: topics')}")
        (folder / "b.yaml").write_text(GOOD.replace("name: intents", "name: tones"))
        found = submissions(["a.yaml", "b.yaml"], "team-a", is_given=False)
        assert [one.name for one in found] == ["intents", "topics", "tones"]
        assert capsys.readouterr().err == "note: a.yaml:1: Secret s3 is not submitted; kubectl apply does that\n"

    @pytest.mark.parametrize("uri", ["file:///data/x.jsonl", "file://./x.jsonl"])
    def test_refuses_addresses_that_no_pod_can_read(self, folder: Path, uri: str) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("s3://data/intents.jsonl", uri))
        with pytest.raises(ManifestError) as caught:
            submissions(["job.yaml"], "team-a", is_given=False)
        assert str(caught.value) == (
            f"job.yaml:7: spec.dataset.train.uri is '{uri}', which no pod can read; put it into s3://, gs:// or az://, "
            "or run the job on this machine with: finetune run"
        )

    def test_refuses_a_file_without_a_job(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(SECRET)
        with pytest.raises(ManifestError, match=r"job\.yaml:1: holds no FineTuneJob"):
            submissions(["job.yaml"], "team-a", is_given=False)


class TestOnOneMachine:
    def test_secrets_are_said_not_to_be_read(self) -> None:
        spec = a_job(
            model={"uri": "hf://o/m", "secretRef": {"name": "hf"}},
            output={"uri": "s3://adapters", "secretRef": {"name": "s3"}},
        ).spec
        assert cluster_only(spec) == (
            "secretRef is for clusters: Secrets hf, s3 are not read; credentials come from the environment here.",
        )

    def test_limits_of_a_cluster_are_said_to_have_no_effect(self) -> None:
        assert cluster_only(a_job(resilience={"ttlSecondsAfterFinished": 60}).spec) == (
            "spec.resilience.ttlSecondsAfterFinished is for clusters, without effect here.",
        )

    def test_nothing_is_said_of_a_job_without_either(self) -> None:
        assert cluster_only(a_job().spec) == ()


def test_run_and_lint_need_no_kubernetes_client(folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    program = (
        "import sys; sys.modules['kubernetes'] = None; sys.argv = ['finetune', 'lint', 'job.yaml']\n"
        "import finetune_cli.run\nfrom finetune_cli.main import main\nmain()"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
