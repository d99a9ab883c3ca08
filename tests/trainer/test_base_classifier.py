"""Base models that are classifiers themselves, with other labels or another kind of problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from finetune_api.stage import Stage
from finetune_trainer.modelling.loading import load
from tests.trainer.conftest import prepared
from tests.trainer.stages import TinyJob, classification_job
from tests.trainer.tiny_models import LABELS

HEAD = "classifier.weight"


def with_base(job: TinyJob, **config: Any) -> TinyJob:
    """The same job, with a base model that has a head of its own; not prepared."""
    base = job.root / "base"
    model = AutoModelForSequenceClassification.from_pretrained(base, **config)
    model.save_pretrained(base)
    job.spec["output"]["keep"] = {"preparedData": True}
    job.spec["evaluation"] = {"publishWorse": True}  # So few steps do not beat the linear probe.
    assert HEAD in load_file(base / "model.safetensors")
    return job


def run(job: TinyJob, *stages: Stage, **settings: Any) -> None:
    for stage in stages:
        outcome = job.run(stage, **(settings if stage is Stage.TRAIN else {}))
        assert outcome.code == 0, f"{stage}: {outcome.log}"


def handling(job: TinyJob) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job.revision / "prepared" / "data.json").read_text())["handling"]
    return content


def test_an_adapter_gets_a_new_head_where_the_base_model_has_another_number_of_labels(tmp_path: Path) -> None:
    job = with_base(classification_job(tmp_path), num_labels=5, problem_type="multi_label_classification")
    run(prepared(job), Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
    assert handling(job)["new_head"]
    note = "the classification head of the base model, with 5 labels (LABEL_0, LABEL_1, LABEL_2, …), is replaced"
    assert handling(job)["notes"][0].startswith(note)
    artifact = job.revision / "artifact"
    assert note in (artifact / "README.md").read_text().replace("\\_", "_")
    stored = load_file(artifact / "adapter_model.safetensors")
    assert stored[f"base_model.model.{HEAD}"].shape == (3, 32)
    # The program on the model card does the same.
    base = AutoModelForSequenceClassification.from_pretrained(
        job.root / "base", num_labels=3, ignore_mismatched_sizes=True
    )
    assert "ignore_mismatched_sizes=True" in (artifact / "README.md").read_text()
    tuned = PeftModel.from_pretrained(base, artifact)
    assert torch.equal(
        tuned.get_base_model().classifier.modules_to_save["default"].weight, stored[f"base_model.model.{HEAD}"]
    )


def test_full_finetuning_replaces_a_head_of_the_same_size_with_other_labels(tmp_path: Path) -> None:
    job = with_base(classification_job(tmp_path), num_labels=3, problem_type="multi_label_classification")
    old = load_file(job.root / "base" / "model.safetensors")[HEAD]
    job.spec["method"] = {"type": "Full"}
    job.spec["training"] |= {"learningRate": 1e-6, "maxSteps": 2}
    job.spec["distributed"]["zero"] = {"stage": 3}
    run(prepared(job), Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH, processes=2)
    assert handling(job)["new_head"]
    artifact = job.revision / "artifact"
    new = load_file(artifact / "model.safetensors")[HEAD]
    assert new.shape == old.shape
    assert float((new - old).abs().mean()) > 0.01, "two steps at this learning rate do not change a weight as much"
    config = json.loads((artifact / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert list(config["id2label"].values()) == sorted(LABELS)


def test_a_head_with_the_labels_of_the_job_is_kept(tmp_path: Path) -> None:
    names = dict(enumerate(sorted(LABELS)))
    job = with_base(classification_job(tmp_path), num_labels=3, id2label=names)
    prepared(job)
    assert not handling(job)["new_head"]
    assert "is kept" in handling(job)["notes"][0]
    loaded = load(AutoModelForSequenceClassification, job.root / "base", torch.float32, "base", num_labels=3)
    assert loaded.random == frozenset()


def test_another_shape_that_is_no_head_is_refused(tmp_path: Path) -> None:
    job = classification_job(tmp_path)
    path = job.root / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"type_vocab_size": 7}))
    run(job, Stage.PREPARE)
    outcome = job.run(Stage.TRAIN)
    assert outcome.report.error is not None
    assert outcome.report.error.reason == "BadConfiguration"
    assert "token_type_embeddings.weight has the shape (2, 32), but its config.json means (7, 32)" in outcome.message


@pytest.mark.parametrize("labels", [3, 4])
def test_a_new_head_has_random_weights_of_the_usual_size(tmp_path: Path, labels: int) -> None:
    job = with_base(classification_job(tmp_path), num_labels=3)
    base = job.root / "base"
    loaded = load(AutoModelForSequenceClassification, base, torch.float32, "base", new_head=True, num_labels=labels)
    assert loaded.random == {HEAD, "classifier.bias"}
    assert isinstance(loaded.model, BertForSequenceClassification)
    weight = loaded.model.classifier.weight
    assert weight.shape == (labels, 32)
    assert not torch.equal(weight[:3], load_file(base / "model.safetensors")[HEAD][: len(weight)])
    assert 0.01 < float(weight.detach().std()) < 0.04


@pytest.mark.parametrize(("labels", "problem"), [(1, None), (3, "regression")])
def test_a_base_model_that_predicts_numbers_is_refused(tmp_path: Path, labels: int, problem: str | None) -> None:
    job = with_base(classification_job(tmp_path), num_labels=labels, problem_type=problem)
    outcome = job.run(Stage.PREPARE)
    assert outcome.code == 64, outcome.log
    assert "predicts a number (config.json has one label, or problem_type regression)" in outcome.message
