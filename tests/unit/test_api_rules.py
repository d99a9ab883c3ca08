"""Validation of FineTuneJob: all rules with their messages, all bounds, and no implicit conversions."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from api_cases import CLASSIFICATION, RULE_CASES, Case
from pydantic import ValidationError
from value_cases import ACCEPTED, ON_ONE_MACHINE, REFUSED

from finetune_api.base import ApiModel, Rule
from finetune_api.job import FineTuneJob
from finetune_api.spec import FineTuneJobSpec, TaskType


def parse(spec: dict[str, Any]) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate_json(json.dumps(spec))


def label(value: Any) -> str:
    return str(value)[:32]


@pytest.mark.parametrize("case", [case for case in RULE_CASES if not case.sentence], ids=lambda case: case.name)
def test_rule_accepts_a_valid_spec(case: Case) -> None:
    parse(case.build())


@pytest.mark.parametrize("case", [case for case in RULE_CASES if case.sentence], ids=lambda case: case.name)
def test_rule_rejects_an_invalid_spec_with_message_and_field(case: Case) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(case.build())
    (error,) = refusal.value.errors()
    assert case.sentence
    assert case.sentence in error["msg"]
    assert error["ctx"]["field"]


def rules_below(model: type[ApiModel]) -> set[Rule]:
    rules = set(model.rules)
    for field in model.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, ApiModel):
                rules |= rules_below(inner)
    return rules


def test_every_rule_has_a_case_that_it_rejects() -> None:
    refused = [case.sentence for case in RULE_CASES if case.sentence]
    for rule in rules_below(FineTuneJobSpec):
        assert any(sentence in rule.message for sentence in refused), rule.message


@pytest.mark.parametrize(("path", "value"), [*ACCEPTED, *ON_ONE_MACHINE], ids=label)
def test_a_value_at_its_bound_is_accepted(path: str, value: Any) -> None:
    parse(Case("", {path: value}).build())


@pytest.mark.parametrize(("path", "value"), REFUSED, ids=label)
def test_a_value_out_of_bounds_is_rejected_with_its_path(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(Case("", {path: value}).build())
    where = ".".join(str(part) for part in refusal.value.errors()[0]["loc"])
    assert where.startswith(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_nan_and_infinity_are_rejected(number: str) -> None:
    text = json.dumps(Case("", {"training.learningRate": 12345}).build()).replace("12345", number)
    with pytest.raises(ValidationError):
        FineTuneJobSpec.model_validate_json(text)


def test_numbers_are_not_converted() -> None:
    training = parse(Case("", {"training": {"epochs": 3, "maxGradNorm": 2, "batchSize": 64}}).build()).training
    assert (training.epochs, training.max_grad_norm, training.batch_size) == (3.0, 2.0, 64)
    assert isinstance(training.epochs, float)
    assert isinstance(training.batch_size, int)


def test_enums_are_read_by_value_and_written_by_value() -> None:
    spec = parse(CLASSIFICATION)
    assert spec.task.type is TaskType.TEXT_CLASSIFICATION
    assert json.loads(spec.model_dump_json())["task"]["type"] == "TextClassification"


def test_an_unknown_field_is_rejected_by_name() -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(Case("", {"training.learningrate": 2e-4}).build())
    (error,) = refusal.value.errors()
    assert (error["type"], error["loc"]) == ("extra_forbidden", ("training", "learningrate"))


def test_snake_case_is_valid_in_python_but_not_in_json() -> None:
    assert parse(CLASSIFICATION).training.model_copy(update={"max_steps": 3}).max_steps == 3
    with pytest.raises(ValidationError, match="max_steps"):
        parse(Case("", {"training.max_steps": 3}).build())


def test_json_is_camel_case_and_can_be_parsed_again() -> None:
    spec = parse(Case("", {"training.maxSteps": 3, "method.lora.useRslora": True}).build())
    document = json.loads(spec.model_dump_json(exclude_none=True))
    assert document["training"]["maxSteps"] == 3
    assert document["method"]["lora"]["useRslora"] is True
    assert parse(document) == spec
    assert FineTuneJobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_null_field_counts_as_omitted() -> None:
    assert parse(Case("", {"training": None, "task.labels": None}).build()) == parse(CLASSIFICATION)


def job(**metadata: Any) -> FineTuneJob:
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": metadata,
        "spec": CLASSIFICATION,
    }
    return FineTuneJob.model_validate_json(json.dumps(document))


def test_unknown_metadata_fields_are_ignored() -> None:
    metadata = job(
        name="a", namespace="team-a", labels={"x": "y"}, managedFields=[{"f:spec": {}}], generation=4
    ).metadata
    assert (metadata.name, metadata.namespace, metadata.generation) == ("a", "team-a", 4)


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "a_b", "a" * 64])
def test_a_name_that_is_not_a_dns_label_is_rejected(name: str) -> None:
    with pytest.raises(ValidationError, match=r"metadata\.name"):
        job(name=name)


def test_another_kind_is_rejected() -> None:
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": CLASSIFICATION}
    with pytest.raises(ValidationError, match="apiVersion"):
        FineTuneJob.model_validate_json(json.dumps(document))
