"""The publish stage: content of the artifact, loading it with transformers and PEFT, and retries."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_fixtures import Job, classification_job, instruction_job
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification, PeftConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import JobLayout
from finetune_api.stage import PublishResult, Stage
from finetune_trainer import storage
from finetune_trainer.host.revision_lock import Holder
from finetune_trainer.manifests import publish_directory, read_manifest
from finetune_trainer.stages.evaluate import run as evaluate
from finetune_trainer.stages.publish import run
from tests.guarded_s3 import AWS_LOCK, Refusal, guarded_s3
from tests.trainer.tiny_models import LABELS, make_texts


@pytest.fixture(scope="module", params=["adapter", "full"])
def classified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = classification_job(tmp_path_factory.mktemp("classified"), full=request.param == "full")
    evaluate(job.context(Stage.EVALUATE))
    return job


@pytest.fixture(scope="module", params=["adapter", "full"])
def instructed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = instruction_job(tmp_path_factory.mktemp("instructed"), full=request.param == "full", steps=160)
    evaluate(job.context(Stage.EVALUATE))
    return job


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = classification_job(tmp_path_factory.mktemp("evaluated"), steps=5)
    evaluate(job.context(Stage.EVALUATE))
    return job


def _copy(job: Job, target: Path, **output: Any) -> Job:
    """The same job with a separate storage directory."""
    shutil.copytree(job.root / "storage", target / "storage")
    return Job(target, job.with_spec(output={"uri": (target / "storage").as_uri(), **output}), job.data)


def _directory(job: Job, name: str = "artifact") -> Path:
    return job.root / "storage/team-a/tiny/r1" / name


def _checkpoints(job: Job) -> None:
    for step in (20, 40, 60):
        local = job.root / f"checkpoint{step}"
        local.mkdir()
        (local / "state.bin").write_bytes(b"state")
        publish_directory(local, f"{job.config(Stage.TRAIN).layout.checkpoints}/step-{step:08d}", {})
    storage.write_bytes(f"{job.config(Stage.TRAIN).layout.checkpoints}/step-00000080/state.bin", b"half of it")


def _snippet(artifact: Path) -> str:
    """The program in the README of the artifact, with an input for the tiny model."""
    code = (artifact / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/base", "base")
    return code.replace("A text to classify", "the apple in snow").replace("What the user says", "what is it the iron")


def _merge() -> str:
    """The program of docs/distillation.md that makes a teacher of an adapter."""
    documented = Path("docs/distillation.md").read_text().split("### An adapter as the teacher")[1]
    return documented.split("```python\n")[1].split("```")[0]


def _run_snippet(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The output of the program, which runs in this process to save imports."""
    monkeypatch.chdir(artifact)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(_snippet(artifact), "README.md", "exec"), {"__name__": "__main__"})
    return output.getvalue().strip()


def test_published_classifier_reproduces_the_measured_scores(
    classified: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _copy(classified, tmp_path)
    result = run(job.context(Stage.PUBLISH))
    artifact = _directory(job)
    labels = json.loads((artifact / "labels.json").read_text())
    assert labels == list(LABELS)
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    if (artifact / "adapter_config.json").exists():
        base = PeftConfig.from_pretrained(artifact).base_model_name_or_path
        assert base == "base"
        (artifact / "base").symlink_to(classified.root / "base")
        monkeypatch.chdir(artifact)
        model = AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels=len(labels)).eval()
    else:
        model = AutoModelForSequenceClassification.from_pretrained(artifact).eval()
        assert model.config.id2label == dict(enumerate(LABELS))
    right = 0
    texts = make_texts(90, seed=3)
    for text, label in texts:
        with torch.inference_mode():
            right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label
    evaluation = json.loads((artifact / "evaluation.json").read_text())
    assert evaluation["metrics"][0]["tuned"] == pytest.approx(right / len(texts))
    manifest = read_manifest(result.uri)
    assert manifest is not None
    assert (result.digest, result.size) == (manifest.digest, manifest.size)
    assert _run_snippet(artifact, monkeypatch) in ("['fruit']", "['weather']")


def test_published_generator_generates_an_answer(
    instructed: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _copy(instructed, tmp_path)
    run(job.context(Stage.PUBLISH))
    (_directory(job) / "base").symlink_to(instructed.root / "base")
    assert _run_snippet(_directory(job), monkeypatch).startswith("it is")


def test_published_model_loads_without_this_package(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    run(job.context(Stage.PUBLISH))
    artifact = _directory(job)
    (artifact / "base").symlink_to(evaluated.root / "base")
    alone = "import sys\nsys.modules['finetune_trainer'] = sys.modules['finetune_api'] = None\n"
    command = [sys.executable, "-c", alone + _snippet(artifact) + _merge()]
    ran = subprocess.run(command, cwd=artifact, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    predicted = ran.stdout.splitlines()[0]
    assert predicted in {f"['{label}']" for label in LABELS}
    merged = AutoModelForSequenceClassification.from_pretrained(artifact / "teacher").eval()
    assert merged.config.id2label == dict(enumerate(LABELS))
    tokens = AutoTokenizer.from_pretrained(artifact / "teacher")("the apple in snow", return_tensors="pt")
    with torch.inference_mode():
        assert f"['{LABELS[int(merged(**tokens).logits.argmax())]}']" == predicted


def test_artifact_has_provenance(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    result = run(job.context(Stage.PUBLISH))
    manifest = read_manifest(result.uri)
    assert manifest is not None
    assert {entry.path for entry in manifest.files} >= {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "curves.json",
        "evaluation.json",
        "labels.json",
        "report.html",
        "tokenizer.json",
    }
    assert not {"history.json", "training.json"} & {entry.path for entry in manifest.files}
    provenance = manifest.provenance
    assert provenance["job"] == job.config(Stage.PUBLISH).job.model_dump(mode="json")
    assert provenance["spec"]["output"]["uri"] == job.spec.output.uri
    assert provenance["model"]["revision"] == job.data.model.revision
    assert provenance["data"]["sources"] == [source.model_dump() for source in job.data.sources]
    assert provenance["training"]["seed"] == 17
    assert provenance["training"]["versions"] == {"torch": torch.__version__}
    assert provenance["evaluation"]["metrics"][0]["name"] == "accuracy"
    for digest, name in (("trainedDigest", "trained"), ("evaluatedDigest", "evaluated")):
        present = read_manifest(_directory(job, name).as_uri())
        assert present is not None
        assert provenance[digest] == present.digest
    # The artifact must not contain scratch paths.
    text = "".join(path.read_text() for path in _directory(job).iterdir() if path.suffix in (".json", ".md", ".html"))
    assert "work-" not in text
    card = ModelCard.load(_directory(job) / "README.md")
    assert card.data.library_name == "peft"
    assert json.loads((_directory(job) / "curves.json").read_text())["validation"][0]["loss"] == 0.4


def test_publish_is_idempotent_even_after_the_data_is_deleted(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    first = run(job.context(Stage.PUBLISH))
    assert storage.list_files(job.config(Stage.PUBLISH).layout.prepared) == []
    assert run(job.context(Stage.PUBLISH)) == first


def test_digest_does_not_depend_on_time_and_host(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path, keep={"preparedData": True})
    first = run(job.context(Stage.PUBLISH))
    storage.delete_tree(first.uri)
    assert run(job.context(Stage.PUBLISH)) == first


@pytest.mark.parametrize(("keep", "kept"), [(0, []), (2, ["step-00000040", "step-00000060"])])
def test_data_and_checkpoints_are_deleted_as_output_keep_specifies(
    evaluated: Job, tmp_path: Path, keep: int, kept: list[str]
) -> None:
    job = _copy(evaluated, tmp_path, keep={"checkpoints": keep, "preparedData": bool(keep)})
    _checkpoints(job)
    run(job.context(Stage.PUBLISH))
    listed = storage.list_files(job.config(Stage.PUBLISH).layout.checkpoints)
    assert sorted({path.split("/")[0] for path, _ in listed}) == kept
    assert bool(storage.list_files(job.config(Stage.PUBLISH).layout.prepared)) is bool(keep)
    assert _directory(job, "trained").exists()


def test_publication_deletes_what_other_revisions_need_to_continue(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    config = job.config(Stage.PUBLISH)
    of_job = JobLayout.of(config.spec.output.uri, config.job.namespace, config.job.name)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    holder = Holder(uid="", spec_digest="d", training_revision=2, host="h", stage="train", attempt=1, heartbeat=0.0)
    for number, uid in ((2, config.job.uid), (3, "of another cluster")):
        layout = of_job.revision(number)
        storage.write_bytes(layout.lock, holder.model_copy(update={"uid": uid}).model_dump_json().encode())
        for uri in (layout.prepared, layout.trained, layout.checkpoint(20), layout.evaluated, layout.artifact):
            publish_directory(other, uri, {})
    run(job.context(Stage.PUBLISH))
    kept = {
        number: sorted({path.split("/")[0] for path, _ in storage.list_files(of_job.revision(number).uri)})
        for number in (2, 3)
    }
    assert kept == {
        2: ["artifact", "evaluated", "revision.json"],
        3: ["artifact", "checkpoints", "evaluated", "prepared", "revision.json", "trained"],
    }


def test_a_published_revision_whose_weights_were_deleted_gives_its_results(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    first = run(job.context(Stage.PUBLISH))
    storage.delete_tree(job.config(Stage.PUBLISH).layout.trained)
    assert run(job.context(Stage.PUBLISH)) == first


def test_artifact_of_another_run_is_not_overwritten(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("another")
    before = publish_directory(other, job.config(Stage.PUBLISH).layout.artifact, {"trainedDigest": "sha256:other"})
    with pytest.raises(StageFailure, match="Another run has already published to") as failure:
        run(job.context(Stage.PUBLISH))
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert read_manifest(job.config(Stage.PUBLISH).layout.artifact) == before
    assert storage.list_files(job.config(Stage.PUBLISH).layout.prepared) != []


def test_a_model_with_a_failed_gate_is_not_published(tmp_path: Path) -> None:
    job = classification_job(tmp_path, steps=1)
    spec = job.with_spec(
        evaluation={"gates": [{"metric": "accuracy", "minimumImprovement": 0.99}], "publishWorse": True}
    )
    evaluate(job.context(Stage.EVALUATE, spec))
    with pytest.raises(StageFailure, match="its gate on accuracy failed"):
        run(job.context(Stage.PUBLISH, spec))
    assert read_manifest(job.config(Stage.PUBLISH).layout.artifact) is None


def test_a_model_that_is_significantly_worse_is_not_published(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    storage.delete_tree(_directory(job, "evaluated").as_uri())
    spec = job.with_spec(evaluation={})
    result = evaluate(job.context(Stage.EVALUATE, spec)).evaluation
    assert result.verdict == "worse"
    assert [(gate.not_worse, gate.passed) for gate in result.gates] == [(True, False)]
    with pytest.raises(StageFailure, match="its gate on accuracy failed"):
        run(job.context(Stage.PUBLISH, spec))


@pytest.mark.parametrize(("name", "stage"), [("trained", "train"), ("evaluated", "evaluate"), ("prepared", "prepare")])
def test_a_missing_input_is_reported_with_the_stage_to_run(
    evaluated: Job, tmp_path: Path, name: str, stage: str
) -> None:
    job = _copy(evaluated, tmp_path)
    storage.delete_tree(_directory(job, name).as_uri())
    with pytest.raises(StageFailure, match=f"run the {stage} stage first") as failure:
        run(job.context(Stage.PUBLISH))
    assert failure.value.reason is Reason.NOT_FOUND


def test_weights_that_were_not_evaluated_are_not_published(evaluated: Job, tmp_path: Path) -> None:
    job = _copy(evaluated, tmp_path)
    uri = job.config(Stage.PUBLISH).layout.trained
    storage.delete_tree(uri)
    publish_directory(evaluated.root / "trained", uri, {"another": "attempt"})
    result: PublishResult | None = None
    with pytest.raises(StageFailure, match="evaluates other weights than"):
        result = run(job.context(Stage.PUBLISH))
    assert result is None


class TestForbiddenDeletion:
    """Clean-up in a bucket that allows no deletion."""

    @pytest.fixture
    def job(self, evaluated: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
        with guarded_s3() as service:
            for name, value in {**service.environment, "FINETUNE_STORAGE_PATIENCE_SECONDS": "1"}.items():
                monkeypatch.setenv(name, value)
            job = Job(tmp_path, evaluated.with_spec(output={"uri": "s3://bucket/out"}), evaluated.data)
            for path in (evaluated.root / "storage").rglob("*"):
                if path.is_file():
                    key = path.relative_to(evaluated.root / "storage")
                    storage.write_bytes(f"s3://bucket/out/{key}", path.read_bytes())
            self.service = service
            yield job

    def test_object_lock_leaves_the_job_published_with_one_note(
        self, job: Job, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.service.on_delete = AWS_LOCK
        for _ in range(2):
            caplog.clear()
            result = run(job.context(Stage.PUBLISH))
            assert read_manifest(result.uri) is not None
            assert "object lock or a retention policy protects it" in result.note
            assert "s3://bucket/out/team-a/tiny/r1" in result.note
            assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1

    def test_a_service_in_trouble_is_tried_again(self, job: Job) -> None:
        self.service.on_delete = Refusal(503, "SlowDown", "Please reduce your request rate.")
        with pytest.raises(StageFailure) as caught:
            run(job.context(Stage.PUBLISH))
        assert caught.value.reason is Reason.UNAVAILABLE
        self.service.on_delete = None
        assert run(job.context(Stage.PUBLISH)).note == ""
