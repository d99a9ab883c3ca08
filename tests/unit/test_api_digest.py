"""The spec digest: it depends on all fields that affect the result, and only on these."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_cases import CLASSIFICATION, Case, chat, documents

from finetune_api.digests import spec_digest, training_digest
from finetune_api.job import FineTuneJobSpec


def digest(spec: dict[str, Any]) -> str:
    return spec_digest(FineTuneJobSpec.model_validate_json(json.dumps(spec)))


def of_training(changes: dict[str, Any]) -> str:
    return training_digest(FineTuneJobSpec.model_validate_json(json.dumps(Case("", changes).build())))


def with_fields(changes: dict[str, Any]) -> str:
    return digest(Case("", changes).build())


def test_the_digest_of_a_stored_job_never_changes() -> None:
    assert digest(CLASSIFICATION) == "sha256:87069e9e9ce9ca31aa64590c4d6072ebe610ea4d2ff8068fd854767e9e7ec311"


@pytest.mark.parametrize(
    "changes",
    [
        {"training.schedule": "Cosine"},
        {"training": {}},
        {"training": {"weightDecay": 0.01, "checkpoint": {"everySteps": 200}}},
        {"training.epochs": 3},
        {"training.learningRate": 5e-4},
        {"training.packing": False},
        {"method": {"type": "LoRA"}},
        {"method": {"lora": {}}},
        {"method.lora": {"rank": 16, "targetModules": ["all-linear"]}},
        {"model": {"uri": "hf://owner/name", "revision": "main"}},
        {"dataset.validation.fraction": 0.1},
        {"dataset.columns": {"text": "text", "label": "label"}},
        {"evaluation.metrics": ["accuracy", "macro_f1"]},
        {"task": {"type": "TextClassification", "multiLabel": False, "classWeights": "None", "loss": "Assistant"}},
        {"evaluation.gates": []},
        {"output.keep.checkpoints": 0},
    ],
    ids=str,
)
def test_an_explicit_default_does_not_change_the_digest(changes: dict[str, Any]) -> None:
    assert with_fields(changes) == digest(CLASSIFICATION)


def test_a_file_is_one_document_unless_the_job_says_so() -> None:
    whole, lines = (digest(documents("", {"dataset.documents": what}).build()) for what in ("File", "Line"))
    assert whole == digest(documents("", {}).build()) != lines


@pytest.mark.parametrize(
    "changes",
    [
        {"resilience.maxRestarts": 9},
        {"resilience.activeDeadlineSeconds": 60},
        {"distributed.workers": 4},
        {"distributed": {"gpusPerWorker": 8, "zero": {"stage": 3}}},
    ],
    ids=str,
)
def test_fields_that_do_not_affect_the_result_do_not_change_the_digest(changes: dict[str, Any]) -> None:
    assert with_fields(changes) == digest(CLASSIFICATION)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.uri": "hf://owner/other"},
        {"task.labels": ["a", "b"]},
        {"dataset.train.uri": "s3://bucket/other.jsonl"},
        {"dataset.test.fraction": 0.2},
        {"dataset.columns.text": "message"},
        {"method.type": "Full"},
        {"method.lora.rank": 8},
        {"training.seed": 18},
        {"training.epochs": 2},
        {"training.maxSteps": 3},
        {"training.learningRate": 1e-4},
        {"training.earlyStopping": {}},
        {"evaluation.metrics": ["macro_f1", "accuracy"]},
        {"evaluation.gates": [{"metric": "accuracy", "minimum": 0.5}]},
        {"output.uri": "s3://elsewhere"},
    ],
    ids=str,
)
def test_fields_that_affect_the_result_change_the_digest(changes: dict[str, Any]) -> None:
    assert with_fields(changes) != digest(CLASSIFICATION)


def test_different_changes_give_different_digests() -> None:
    digests = [with_fields({"training.seed": seed}) for seed in range(50)]
    assert len(set(digests)) == 50


def test_defaults_depend_on_task_and_method() -> None:
    full = {"method.type": "Full"}
    assert with_fields(full | {"training.learningRate": 2e-5}) == with_fields(full)
    assert with_fields(full | {"training.learningRate": 2e-4}) != with_fields(full)
    plain = digest(chat("", {}).build())
    assert digest(chat("", {"training.packing": True}).build()) == plain
    assert digest(chat("", {"training.packing": False}).build()) != plain
    assert digest(chat("", {"dataset.columns.prompt": "prompt"}).build()) != plain


def test_the_order_of_keys_is_irrelevant() -> None:
    def reversed_keys(node: Any) -> Any:
        return {key: reversed_keys(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    spec = Case("", {"training": {"seed": 3, "batchSize": 8}, "method.lora": {"rank": 8, "alpha": 8}}).build()
    assert digest(reversed_keys(spec)) == digest(spec)


def test_3_and_3_0_give_the_same_digest() -> None:
    assert with_fields({"training.epochs": 2}) == with_fields({"training.epochs": 2.0})


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation.metrics": ["macro_f1", "accuracy"]},
        {"evaluation.gates": [{"metric": "accuracy", "minimum": 0.5}]},
        {"evaluation.publishWorse": True},
        {"evaluation.slices": ["region"]},
        {"evaluation.baseline": "Previous"},
        {"output.keep.checkpoints": 2},
    ],
    ids=str,
)
def test_fields_of_the_evaluation_do_not_change_the_digest_of_the_training(changes: dict[str, Any]) -> None:
    assert of_training(changes) == of_training({})


def test_an_adapter_starts_another_training_but_its_secret_does_not() -> None:
    uri = {"model.adapter": {"uri": "s3://adapters/a"}}
    assert of_training(uri) != of_training({})
    assert of_training({"model.adapter": {"uri": "s3://adapters/b"}}) != of_training(uri)
    assert of_training({"model.adapter": {"uri": "s3://adapters/a", "secretRef": {"name": "s3"}}}) == of_training(uri)


def test_a_teacher_starts_another_training_but_credentials_and_speed_do_not() -> None:
    endpoint = {"url": "https://models.example/v1", "model": "m"}
    served = {"teacher": {"endpoint": endpoint}, "mode": "Responses"}
    spec = chat("", {"distillation": served})
    plain, learned = (FineTuneJobSpec.model_validate_json(json.dumps(one.build())) for one in (chat("", {}), spec))
    assert training_digest(plain) != training_digest(learned)
    hurried = {"endpoint": {**endpoint, "maxConcurrency": 2, "secretRef": {"name": "api"}}}
    assert digest(chat("", {"distillation": {**served, "teacher": hurried}}).build()) == digest(spec.build())
    dear = {"endpoint": endpoint, "prices": {"input": 1, "output": 2}}
    assert digest(chat("", {"distillation": {**served, "teacher": dear}}).build()) == digest(spec.build())
    cold = {"endpoint": endpoint, "temperature": 0}
    assert digest(chat("", {"distillation": {**served, "teacher": cold}}).build()) != digest(spec.build())
    # A job that has failed because of its budget starts again with a larger one.
    richer = {"endpoint": {**endpoint, "maxTokens": 10}}
    assert digest(chat("", {"distillation": {**served, "teacher": richer}}).build()) != digest(spec.build())
    teacher = {"distillation.teacher": {"uri": "s3://models/a"}}
    assert of_training(teacher) != of_training({"distillation.teacher": {"uri": "s3://models/b"}})
    assert of_training({**teacher, "distillation.weight": 0.5}) == of_training(teacher)


def test_omitted_settings_of_an_adapter_are_not_the_defaults() -> None:
    adapter = {"model.adapter": {"uri": "s3://adapters/a"}}
    assert with_fields({"method.lora": {"rank": 16}}) == with_fields({})
    assert with_fields(adapter | {"method.lora": {"rank": 16}}) != with_fields(adapter)


def test_how_fast_a_proposer_is_asked_starts_no_revision() -> None:
    proposer = {"url": "https://models.example/v1", "model": "m"}

    def search(**changes: Any) -> dict[str, Any]:
        settings = {"propose": 2, "proposer": {**proposer, **changes}}
        return {"method": {"type": "PromptSearch", "promptSearch": settings}}

    hurried = search(maxConcurrency=2, secretRef={"name": "key"})
    assert with_fields(hurried) == with_fields(search())
    assert with_fields(search(model="other")) != with_fields(search())


def test_whether_programs_run_decides_which_prompt_is_the_best() -> None:
    search = {
        "task": {"type": "CodeGeneration"},
        "method": {"type": "PromptSearch", "promptSearch": {"candidates": ["{prompt}"]}},
    }
    assert of_training(search) != of_training({**search, "evaluation.allowCodeExecution": True})
