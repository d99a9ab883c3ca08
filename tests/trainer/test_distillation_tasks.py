"""Teachers of each kind of head: of spans, of a decoder, of label lists, and of documents."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, DistilBertConfig, DistilBertForQuestionAnswering

from finetune_api.stage import Stage, StageConfig
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.stages import evaluate
from tests.trainer.pair_models import save_t5_with, word_tokenizer
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.teacher_models import save_classifier, save_generator, taught_by
from tests.trainer.tiny_models import LABELS, make_texts

SLOW = {"maxSteps": 2, "batchSize": 4, "learningRate": 1e-9, "maxSequenceLength": 32}
"""A student that stays what it is."""


def job_of(root: Path, task: dict[str, Any], rows: list[dict[str, Any]], teacher: Path, **spec: Any) -> TinyJob:
    """A job whose model is in ``base``."""
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": task,
            "dataset": {
                "train": {"uri": write_jsonl(root / "rows.jsonl", rows)},
                "test": {"fraction": 0.2, "minimumExamples": 1},
            },
            "method": {"type": "Full"},
            "training": SLOW,
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
            "distillation": taught_by(teacher, weight=0.5),
            "evaluation": {"publishWorse": True},
            "output": {"uri": (root / "storage").as_uri()},
            **spec,
        },
    )


def trained(job: TinyJob) -> list[dict[str, Any]]:
    """The training curve of the job."""
    for stage in (Stage.PREPARE, Stage.TRAIN):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job.history()


def evaluated(job: TinyJob) -> list[str]:
    """What the evaluation of the job has done with models, each by its name in /progress, in order."""
    config = StageConfig.model_validate_json(json.dumps(job.config(Stage.EVALUATE)))
    workspace = Path(config.workspace)
    workspace.mkdir()
    events = workspace.with_name("events")
    descriptor = os.open(events, os.O_CREAT | os.O_WRONLY)
    evaluate.run(StageContext(config, workspace, Reporter(descriptor)))
    os.close(descriptor)
    started = [event for line in events.read_text().splitlines() if (event := json.loads(line)).get("done") == 0]
    return [event["activity"] for event in started if "tuned" in event["activity"]]


def copied(directory: Path) -> Path:
    """A copy of a model, which knows what the model knows."""
    target = directory.with_name("teacher")
    shutil.copytree(directory, target)
    return target


def assert_no_divergence(curve: list[dict[str, Any]]) -> None:
    assert max(point["divergence"] for point in curve) < 1e-6
    assert min(point["crossEntropy"] for point in curve) > 0


def test_a_student_without_token_types_learns_spans_from_a_teacher_with_them(tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "white", "black", "grey")
    rows = [
        {"question": "which colour ?", "context": f"the {thing} is {colour} today", "answers": [colour]}
        for thing in ("house", "door")
        for colour in colours
    ]
    job = heart_job(tmp_path, rows, "words", head=True)
    teacher = copied(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    shutil.rmtree(tmp_path / "base")
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=130
    )
    DistilBertForQuestionAnswering(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    job = job.changed(
        distillation=taught_by(teacher),
        training={"maxSteps": 4, "evaluateEverySteps": 4},
        evaluation={"publishWorse": True},
    )
    curve = trained(job)
    assert min(point["divergence"] for point in curve) > 1e-4
    assert len(evaluated(job)) == len({"validation", "test"})
    assert all("teacher" in metric for metric in job.evaluation["metrics"])


def test_a_decoder_starts_as_that_of_its_teacher(tmp_path: Path) -> None:
    rows = [{"text": text, "summary": text.split()[-1]} for text, _ in make_texts(30, 2)]
    tokenizer = word_tokenizer([*(text for row in rows for text in row.values()), "summarize:"])
    save_t5_with(tmp_path / "base", tokenizer, width=32)
    job = job_of(tmp_path, {"type": "Summarization"}, rows, copied(tmp_path / "base"))
    job.spec["evaluation"]["generation"] = {"maxNewTokens": 4}
    assert_no_divergence(trained(job))
    assert evaluated(job) == ["generating answers (tuned)"]
    for metric in job.evaluation["metrics"]:
        assert metric["teacher"] == metric["baseline"]


def test_label_lists_are_compared_label_by_label(tmp_path: Path) -> None:
    save_classifier(tmp_path / "base", problem_type="multi_label_classification")
    rows = [{"text": text, "label": [LABELS[label]]} for text, label in make_texts(60, 2)]
    task = {"type": "TextClassification", "multiLabel": True}
    job = job_of(tmp_path, task, rows, copied(tmp_path / "base"))
    assert_no_divergence(trained(job))
    assert evaluated(job) == ["classifying with the tuned model"]


def test_documents_are_compared_at_every_token(tmp_path: Path) -> None:
    save_generator(tmp_path / "base", vocab_size=50)
    teacher = save_generator(tmp_path / "teacher", vocab_size=64)
    rows = [{"text": text} for text, _ in make_texts(80, 2)]
    job = job_of(tmp_path, {"type": "LanguageModeling"}, rows, teacher)
    curve = trained(job)
    assert evaluated(job) == ["measuring the likelihood (tuned)"]
    assert min(point["divergence"] for point in curve) > 1e-3
    report = json.loads((tmp_path / "storage/team-a/tiny/r1/prepared/data.json").read_text())
    assert report["teacher"]["tokens"] == 47
