"""Manifest files before they reach a cluster: lint, submit, and notes of `finetune run`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.spec import TaskType
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
    def test_reports_file_and_line_of_every_problem_in_every_document(self, folder: Path) -> None:
        bad = (
            GOOD.replace("epochs: ~", "epochs: 0")
            .replace("task: {type: Text", "task: {type: Tetx")
            .replace("name: intents", "name: bad")
        )
        (folder / "jobs.yaml").write_text(f"{SECRET}---\n{GOOD}---\n{bad}")
        assert problems("jobs.yaml") == [
            f"jobs.yaml:20: spec.task.type is 'TetxClassification', but must be one of {', '.join(TaskType)}; "
            "did you mean TextClassification?",
            "jobs.yaml:22: spec.training.epochs must be above 0; it is 0",
        ]

    def test_searches_directories_and_ignores_files_without_a_job(self, folder: Path) -> None:
        (folder / "team" / ".git").mkdir(parents=True)
        (folder / "team" / "job.yml").write_text(GOOD.replace("hf://", "hff://"))
        (folder / "team" / "template.yaml").write_text("a: {{ .Values.b }}\n")
        (folder / "team" / ".git" / "job.yaml").write_text("kind: FineTuneJob")
        (folder / "team" / "notes.txt").write_text("kind: FineTuneJob")
        assert [line.partition(":")[0] for line in problems("team")] == ["team/job.yml"]

    def test_reports_a_misspelled_kind(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("FineTuneJob", "FinetuneJob"))
        assert problems("job.yaml") == ["job.yaml:2: kind is 'FinetuneJob', but must be FineTuneJob"]

    def test_reports_an_unreadable_file(self, folder: Path) -> None:
        (folder / "job.yaml").write_text("a: [")
        assert problems("other.yaml") == ["other.yaml:1: cannot be read: no such file or directory"]
        assert problems("job.yaml")[0].startswith("job.yaml:1: is not valid YAML: ")

    def test_accepts_file_uris(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("s3://adapters", "file://./out"))
        assert problems("job.yaml") == []

    def test_summary_counts_jobs_files_and_skipped_objects(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(f"{GOOD}---\n{SECRET}")
        (folder / "secret.yaml").write_text(SECRET)
        assert summary(findings(["job.yaml"]), ["job.yaml"]) == (
            "1 FineTuneJob in 1 file checked, no problems found; 1 other object skipped"
        )
        assert summary(findings(["secret.yaml"]), ["secret.yaml"]) == (
            "no FineTuneJob in secret.yaml; 1 other object skipped"
        )

    def test_json_output(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    def test_sends_the_manifest_without_nulls_and_server_fields(self, folder: Path) -> None:
        text = GOOD.replace("name: intents,", "name: intents, uid: x, resourceVersion: '7', managedFields: [],")
        (folder / "job.yaml").write_text(text + "status: {phase: Failed}\n")
        (found,) = submissions(["job.yaml"], "team-a", is_given=False)
        assert found.manifest["metadata"] == {"namespace": "team-a", "name": "intents", "labels": {"team": "a"}}
        assert found.manifest["spec"]["training"] == {"learningRate": 2e-4}
        assert "status" not in found.manifest

    def test_keeps_the_namespace_of_the_manifest(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("name: intents,", "name: intents, namespace: team-b,"))
        (found,) = submissions(["job.yaml"], "team-a", is_given=False)
        assert found.manifest["metadata"]["namespace"] == "team-b"
        with pytest.raises(ManifestError, match=r"job\.yaml:3: metadata\.namespace is 'team-b', but -n is 'team-a'"):
            submissions(["job.yaml"], "team-a", is_given=True)

    def test_takes_every_job_and_reports_skipped_objects(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "a.yaml").write_text(f"{SECRET}---\n{GOOD}---\n{GOOD.replace('name: intents', 'name: topics')}")
        (folder / "b.yaml").write_text(GOOD.replace("name: intents", "name: tones"))
        found = submissions(["a.yaml", "b.yaml"], "team-a", is_given=False)
        assert [one.name for one in found] == ["intents", "topics", "tones"]
        assert capsys.readouterr().err == "note: a.yaml:1: Secret s3 is not submitted; apply it with kubectl apply\n"

    @pytest.mark.parametrize("uri", ["file:///data/x.jsonl", "file://./x.jsonl"])
    def test_rejects_file_uris(self, folder: Path, uri: str) -> None:
        (folder / "job.yaml").write_text(GOOD.replace("s3://data/intents.jsonl", uri))
        with pytest.raises(ManifestError) as caught:
            submissions(["job.yaml"], "team-a", is_given=False)
        assert str(caught.value) == (
            f"job.yaml:7: spec.dataset.train.uri is '{uri}', which pods cannot read; copy it to s3://, gs:// or az://, "
            "or run the job on this machine with finetune run"
        )

    def test_rejects_a_file_without_a_job(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(SECRET)
        with pytest.raises(ManifestError, match=r"job\.yaml:1: contains no FineTuneJob"):
            submissions(["job.yaml"], "team-a", is_given=False)


class TestLocalRunNotes:
    def test_secrets_are_reported_as_not_read(self) -> None:
        spec = a_job(
            model={"uri": "hf://o/m", "secretRef": {"name": "hf"}},
            output={"uri": "s3://adapters", "secretRef": {"name": "s3"}},
        ).spec
        assert cluster_only(spec) == (
            "secretRef works only on clusters: Secrets hf, s3 are not read; credentials come from the environment.",
        )

    def test_cluster_only_limits_are_reported_as_without_effect(self) -> None:
        assert cluster_only(a_job(resilience={"ttlSecondsAfterFinished": 60}).spec) == (
            "spec.resilience.ttlSecondsAfterFinished has an effect only on clusters.",
        )

    def test_no_notes_for_a_job_without_either(self) -> None:
        assert cluster_only(a_job().spec) == ()


def problems_of(folder: Path, text: str, name: str = "job.yaml") -> list[str]:
    (folder / name).write_text(text)
    return [f"{problem.line}: {problem.message}" for problem in findings([name]).problems]


def test_lint_finds_two_jobs_of_one_name_in_a_file(folder: Path) -> None:
    other = GOOD.replace("{name: intents,", "{name: intents, namespace: team-b,")
    assert other != GOOD
    assert problems_of(folder, f"{GOOD}---\n{other}") == []
    (problem,) = problems_of(folder, f"{GOOD}---\n{GOOD}")
    assert problem.endswith("has the same name as the job in line 1, intents; change metadata.name of one")


def test_lint_recognises_a_helm_template(folder: Path) -> None:
    (problem,) = problems_of(folder, "kind: FineTuneJob\nmetadata: {name: {{ .Release.Name }}-job}\n")
    assert problem.endswith("; if it is a Helm template, check its result with: helm template … | finetune lint -")


def test_lint_recognises_a_part_of_a_kustomization(folder: Path) -> None:
    patch = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\nspec: {training: {epochs: 1}}\n"
    assert len(problems_of(folder, patch)) > 1
    (folder / "kustomization.yaml").write_text("patches: []\n")
    assert problems_of(folder, patch) == [
        "1: is a part of a kustomization; check the whole with: kustomize build … | finetune lint -"
    ]


def test_run_and_lint_need_no_kubernetes_client(folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    program = (
        "import sys; sys.modules['kubernetes'] = None; sys.argv = ['finetune', 'lint', 'job.yaml']\n"
        "import finetune_cli.run\nfrom finetune_cli.main import main\nmain()"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
