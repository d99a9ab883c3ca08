"""What the API server accepts, rejects and shows of a FineTuneJob, compared with pydantic."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.job import FineTuneJob
from tests.apiserver.api import Api, Refused
from tests.apiserver.conftest import CRD
from tests.apiserver.desk import Desk
from tests.builders import manifest
from tests.unit.api_cases import CLASSIFICATION, INSTRUCTION, RULE_CASES, Case, nodes
from tests.unit.distillation_cases import ENDPOINT, SERVED
from tests.unit.value_cases import ACCEPTED, ON_ONE_MACHINE, REFUSED

NAMESPACE = "default"
SPEC_SCHEMA = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
_numbers = itertools.count(1)


def a_manifest(spec: Any, name: str = "") -> dict[str, Any]:
    metadata = {"name": name or f"rules-{next(_numbers)}", "namespace": NAMESPACE}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec}


def refusal(api: Api, document: Mapping[str, Any]) -> str:
    """The errors of the API server for a manifest, with a dry run."""
    try:
        api.create("FineTuneJob", document, dryRun="All", fieldValidation="Strict")
    except Refused as error:
        if error.code in (400, 422):
            return error.message
        raise
    return ""


def label(value: Any) -> str:
    return str(value)[:32]


class TestEveryRule:
    @pytest.mark.parametrize("case", RULE_CASES, ids=lambda case: case.name)
    def test_is_enforced_with_its_message(self, admin: Api, case: Case) -> None:
        message = refusal(admin, a_manifest(case.build()))
        if case.sentence is None:
            assert message == ""
        else:
            assert (case.server or case.sentence) in message

    def test_is_covered_by_a_rejected_manifest(self, admin: Api) -> None:
        manifests = [case.build() for case in RULE_CASES if case.sentence]
        manifests += [Case("", {path: value}).build() for path, value in (*REFUSED, *ON_ONE_MACHINE)]
        messages = [refusal(admin, a_manifest(spec)) for spec in manifests]
        rules = [rule for _, node in nodes(SPEC_SCHEMA) for rule in node.get("x-kubernetes-validations", ())]
        untold = {rule["message"] for rule in rules if not any(rule["message"] in one for one in messages)}
        assert untold == set()

    @pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=label)
    def test_accepts_a_value_at_its_bound(self, admin: Api, path: str, value: Any) -> None:
        assert refusal(admin, a_manifest(Case("", {path: value}).build())) == ""

    @pytest.mark.parametrize(("path", "value"), ON_ONE_MACHINE, ids=label)
    def test_rejects_an_address_on_one_machine_at_its_field(self, admin: Api, path: str, value: Any) -> None:
        message = refusal(admin, a_manifest(Case("", {path: value}).build()))
        assert f"spec.{path}" in message
        assert "file:// is an address on one machine, for finetune run; pods need" in message

    @pytest.mark.parametrize(("path", "value"), REFUSED, ids=label)
    def test_rejects_a_value_out_of_bounds_at_its_field(self, admin: Api, path: str, value: Any) -> None:
        message = refusal(admin, a_manifest(Case("", {path: value}).build()))
        assert f"spec.{path}" in message.replace("[", ".")

    @pytest.mark.parametrize("name", ["A", "a.b", "a_b", "a" * 64, "-a"])
    def test_rejects_a_name_that_is_not_a_dns_label(self, admin: Api, name: str) -> None:
        assert refusal(admin, a_manifest(CLASSIFICATION, name))

    def test_rejects_a_status_beyond_its_bounds(self, desk: Desk) -> None:
        desk.apply()
        beyond = {"checkpoint": {"step": 2**53, "uri": "s3://adapters/checkpoint"}}
        with pytest.raises(Refused, match=r"checkpoint\.step"):
            desk.api.merge_status("FineTuneJob", "intents", desk.namespace, beyond)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts and values of a spec."""
    if path:
        yield path
    if isinstance(node, dict):
        for key, inner in node.items():
            yield from leaves(inner, (*path, key))
    if isinstance(node, list):
        for index, inner in enumerate(node):
            yield from leaves(inner, (*path, index))


FULL: dict[str, Any] = {
    "model": {"uri": "hf://owner/name", "revision": "main", "secretRef": {"name": "hub"}},
    "task": {"type": "TextClassification", "labels": ["a", "b", "c"]},
    "dataset": {
        "train": {"uri": "s3://bucket/train.jsonl", "secretRef": {"name": "data"}},
        "validation": {"fraction": 0.1},
        "test": {"uri": "s3://bucket/test.jsonl", "secretRef": {"name": "data"}},
        "format": "JSONL",
        "columns": {"text": "text", "label": "label"},
        "cleaning": {"deduplicate": "Exact", "dropInvalid": 0.1},
    },
    "method": {
        "type": "LoRA",
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.1, "targetModules": ["query", "value"], "useRslora": False},
    },
    "distillation": {
        "teacher": {"uri": "hf://owner/teacher", "revision": "main", "secretRef": {"name": "hub"}},
        "mode": "Logits",
        "temperature": 2.0,
        "weight": 0.5,
        "maxFailed": 0.6,
    },
    "training": {
        "epochs": 2,
        "learningRate": 2e-4,
        "schedule": "Cosine",
        "warmupSteps": 10,
        "weightDecay": 0.01,
        "maxGradNorm": 1.0,
        "batchSize": 32,
        "maxBatchSizePerDevice": 8,
        "maxSequenceLength": 512,
        "packing": False,
        "precision": "Auto",
        "activationCheckpointing": True,
        "seed": 17,
        "evaluateEverySteps": 50,
        "earlyStopping": {"patience": 3, "minDelta": 0.01},
        "checkpoint": {"everySteps": 100, "keep": 2},
    },
    "distributed": {"workers": 2, "gpusPerWorker": 2, "zero": {"stage": 2}},
    "evaluation": {
        "metrics": ["accuracy", "macro_f1"],
        "gates": [{"metric": "accuracy", "minimum": 0.5}, {"metric": "macro_f1", "minimumImprovement": 0.01}],
        "generation": {"maxNewTokens": 128},
    },
    "output": {
        "uri": "s3://adapters",
        "secretRef": {"name": "out"},
        "keep": {"checkpoints": 1, "preparedData": True},
    },
    "resilience": {
        "maxRestarts": 3,
        "stallTimeoutSeconds": 900,
        "pendingTimeoutSeconds": 600,
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 0,
    },
    "suspend": False,
}
PATHS = tuple(leaves(FULL))

WORDS = (
    *("", " ", "a", "main", "é", "日本語", "a\u0000b", "\u2028", "𝄞" * 64, "𝄞" * 129, "a" * 128, "a" * 129, "a" * 2000),
    *("NaN", "true", "null", "1", "2e-4", "None", "Auto", "LoRA", "Full", "CSV", "OpenAIChat", "InstructionTuning"),
    *(
        "s3://",
        "s3://b",
        "s3://b/\u00a0",
        "s3://b/\u0085",
        "s3://b\n",
        "hf://o/n",
        "file://./x",
        "az://b/?x",
        "all-linear",
    ),
    *(
        "accuracy",
        "loss",
        "chrf",
        "-a",
        "a.b",
        "a-",
        "A",
        "s3://" + "é" * 400,
        "s3://" + "a" * 1019,
        "s3://" + "a" * 1020,
    ),
)
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 17, 29, 30, 32, 64, 100, 101, 128, 1000, 1001, 1024, 1025, 8192, 65536, 65537),
    *(2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 10**30, -1, -(2**31), -(2**63), -(10**30)),
    *(
        0.0,
        -0.0,
        0.5,
        0.1,
        0.8,
        0.51,
        1.0,
        2.0,
        3.5,
        1e3,
        1e-9,
        5e-324,
        1.7e308,
        1e300,
        -1e300,
        30.0,
        2147483647.0,
        1.0000001,
    ),
)
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(NUMBERS),
    st.sampled_from(
        [None, True, False, {}, [], [None], [1, "a"], ["a", "a"], ["a", "b"], {"name": "x"}, {"uri": "s3://b"}]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
FIELDS = sorted({part for path in PATHS for part in path if isinstance(part, str)})


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A spec in which a part was removed, added or replaced by an odd value."""
    spec = copy.deepcopy(draw(st.sampled_from([FULL, CLASSIFICATION, INSTRUCTION])))
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        *parents, last = draw(st.sampled_from(PATHS))
        node: Any = spec
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else [*node, {}][0]
            if not isinstance(node, dict | list):
                break
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if isinstance(node, list):
            change_list(draw, node, action)
        elif isinstance(node, dict):
            change_object(draw, node, str(last), action)
    return dict(spec)


def change_list(draw: st.DrawFn, node: list[Any], action: str) -> None:
    if action == "remove":
        del node[-1:]
    elif action == "add":
        node.append(draw(VALUES))
    else:
        node[:1] = [draw(VALUES)]


def change_object(draw: st.DrawFn, node: dict[str, Any], name: str, action: str) -> None:
    if action == "remove":
        node.pop(name, None)
    elif action == "add":
        node[draw(st.sampled_from([*FIELDS, "unknown"]))] = draw(VALUES)
    else:
        number = isinstance(node.get(name), float | int)
        node[name] = draw(st.one_of(st.sampled_from(NUMBERS if number else WORDS), VALUES))


def texts(node: Any) -> Iterator[str]:
    """All strings in a spec."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from texts(inner)


INTEGERS = [(path.removeprefix("."), node["minimum"]) for path, node in nodes(SPEC_SCHEMA) if node["type"] == "integer"]
"""The integer fields, each with its minimum."""


class TestPydanticAndTheApiServer:
    @pytest.mark.parametrize(("path", "least"), INTEGERS)
    def test_reject_a_decimal_point_in_an_integer(self, admin: Api, path: str, least: int) -> None:
        """Only custom clients send one: kubectl and YAML convert 64.0 to 64."""
        parents = {
            "distillation.": {"distillation": SERVED},
            "model.endpoint.": {"model": {"endpoint": ENDPOINT}},
            "method.promptSearch.proposer.": {"method.promptSearch.proposer": ENDPOINT},
        }
        parent = next((copy.deepcopy(value) for start, value in parents.items() if path.startswith(start)), {})
        field = path.removesuffix("[]")
        document = a_manifest(Case("", {**parent, field: float(least) if field == path else [float(least)]}).build())
        message = refusal(admin, document)
        assert f"spec.{path.replace('[]', '[0]')}: Invalid value" in message
        assert "must be a whole number, written without a decimal point" in message
        with pytest.raises(ValidationError, match="valid integer"):
            FineTuneJob.model_validate_json(json.dumps(document))

    @settings(
        max_examples=800,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(spec=specs())
    def test_agree_on_every_manifest(self, admin: Api, spec: dict[str, Any]) -> None:
        document = a_manifest(spec)
        assume(len(json.dumps(document)) < 100_000)
        try:
            FineTuneJob.model_validate_json(json.dumps(document))
            ours = ""
        except ValidationError as error:
            ours = str(error)
        if any(value.startswith("file:") for value in texts(spec)):
            ours = ours or "only for finetune run"
        theirs = refusal(admin, document)
        assert bool(ours) == bool(theirs), (
            f"{json.dumps(spec)}\npydantic: {ours or 'takes it'}\nserver: {theirs or 'takes it'}"
        )


class TestYamlManifest:
    TEXT = """
        apiVersion: finetune.dev/v1alpha1
        kind: FineTuneJob
        metadata: {name: yaml}
        spec:
          model: {uri: hf://owner/name}
          task: {type: TextClassification}
          dataset: {train: {uri: s3://bucket/train.jsonl}}
          training: {learningRate: 2e-4, batchSize: 6.4e1}
          output: {uri: s3://adapters}
    """

    def test_number_without_decimal_point_is_accepted(self, desk: Desk) -> None:
        """`kubectl apply --server-side` sends the text unchanged."""
        path = desk.api.path("FineTuneJob", desk.namespace, "yaml")
        found = desk.api.request_text("PATCH", path, self.TEXT, {"fieldManager": "kubectl"})
        assert found["spec"]["training"] == {"learningRate": 0.0002, "batchSize": 64}
        assert FineTuneJob.model_validate_json(json.dumps(found)).spec.training.batch_size == 64

    def test_applying_it_again_changes_nothing(self, desk: Desk) -> None:
        first = desk.apply(training={"batchSize": 64.0, "learningRate": 1})
        second = desk.apply(training={"batchSize": 64.0, "learningRate": 1})
        assert second["metadata"]["generation"] == 1
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    def test_is_stored_as_written(self, desk: Desk) -> None:
        assert desk.apply()["spec"] == manifest()["spec"]
