"""The policies of docs/limits.md: they know every address that a job can name, and refuse what they do not allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.crd import custom_resource_definition
from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
OBJECTS = {
    document["kind"]: document
    for block in re.findall(r"^```yaml\n(apiVersion:.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for document in yaml.safe_load_all(block)
}
POLICY = OBJECTS["ValidatingAdmissionPolicy"]
MODELS = "models, adapters and teachers must come from"
ENDPOINTS = "the only endpoint that jobs may ask is"
STORAGE = "data, tasks and results must be in the bucket"
ELSEWHERE = "https://models.example.evil/v1"
CANDIDATES: dict[str, Any] = {"type": "PromptSearch", "promptSearch": {"candidates": ["Of {text}"]}}


def spec(bucket: str, **changes: Any) -> dict[str, Any]:
    inside = {
        "model": {"uri": "hf://google-bert/bert-base-uncased"},
        "task": {"type": "TextClassification"},
        "dataset": {"train": {"uri": f"s3://{bucket}/train.jsonl"}},
        "output": {"uri": f"s3://{bucket}"},
    }
    return {**inside, **changes}


def taught(**teacher: Any) -> dict[str, Any]:
    mode = "Responses" if "endpoint" in teacher else "Logits"
    return {"method": {"type": "Full"}, "distillation": {"mode": mode, "teacher": teacher}}


def answered(url: str) -> dict[str, Any]:
    return {"task": {"type": "InstructionTuning"}, **taught(endpoint={"url": url, "model": "m"})}


def searched(url: str) -> dict[str, Any]:
    return {"model": {"endpoint": {"url": url, "model": "m"}}, "method": CANDIDATES}


def proposed(url: str) -> dict[str, Any]:
    search = {**CANDIDATES["promptSearch"], "propose": 2, "proposer": {"url": url, "model": "m"}}
    return {"model": {"uri": "hf://google-bert/m"}, "method": {"type": "PromptSearch", "promptSearch": search}}


def beside(split: str) -> dict[str, Any]:
    return {"train": {"uri": "s3://limited/train.jsonl"}, split: {"uri": "s3://elsewhere/x.jsonl"}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "model.uri": ({"model": {"uri": "hf://somebody/model"}}, MODELS),
    "model.adapter.uri": (
        {"model": {"uri": "s3://models/m", "adapter": {"uri": "s3://models-of-others/a"}}},
        MODELS,
    ),
    "distillation.teacher.uri": (taught(uri="s3://elsewhere/teacher"), MODELS),
    "model.endpoint.url": (searched(ELSEWHERE), ENDPOINTS),
    "method.promptSearch.proposer.url": (proposed(ELSEWHERE), ENDPOINTS),
    "distillation.teacher.endpoint.url": (answered(ELSEWHERE), ENDPOINTS),
    "dataset.train.uri": ({"dataset": {"train": {"uri": "s3://elsewhere/x.jsonl"}}}, STORAGE),
    "dataset.validation.uri": ({"dataset": beside("validation")}, STORAGE),
    "dataset.test.uri": ({"dataset": beside("test")}, STORAGE),
    "evaluation.harnessPath.uri": (
        {
            "task": {"type": "InstructionTuning"},
            "evaluation": {"harness": ["t"], "harnessPath": {"uri": "s3://elsewhere/tasks"}},
        },
        STORAGE,
    ),
    "output.uri": ({"output": {"uri": "s3://elsewhere/results"}}, STORAGE),
}
"""By address: a job that names another one than is allowed, and the message."""


def addresses(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of all addresses in a schema."""
    for name, inner in schema.get("properties", {}).items():
        if name in ("uri", "url"):
            yield f"{path}{name}"
        yield from addresses(inner, f"{path}{name}.")
    yield from addresses(schema["items"], path) if "items" in schema else ()


def test_every_address_of_a_spec_is_tried() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    assert set(addresses(version["schema"]["openAPIV3Schema"]["properties"]["spec"])) == set(REFUSED)


def create(api: Api, namespace: str, changes: Mapping[str, Any]) -> None:
    """Create a job without storing it."""
    metadata = {"name": "probe", "namespace": namespace}
    body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata}
    api.create("FineTuneJob", {**body, "spec": spec(namespace, **changes)}, dryRun="All")


def refusal(api: Api, namespace: str, changes: Mapping[str, Any]) -> str:
    """Why a job is refused; empty if it is not."""
    try:
        create(api, namespace, changes)
    except Refused as refused:
        return refused.message
    return ""


@pytest.fixture(scope="module")
def limited(admin: Api) -> Iterator[str]:
    """A namespace in which the policy is in force."""
    namespace = "limited"
    admin.create("Namespace", {"metadata": {"name": namespace}})
    admin.apply(POLICY)
    binding = OBJECTS["ValidatingAdmissionPolicyBinding"]
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    admin.apply({**binding, "spec": {**binding["spec"], "matchResources": here}})
    wait_until(lambda: refusal(admin, namespace, REFUSED["output.uri"][0]), "the policy is in force", 60)
    yield namespace
    for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
        admin.delete(kind, POLICY["metadata"]["name"])


@pytest.mark.parametrize("address", REFUSED)
def test_another_address_is_refused(admin: Api, limited: str, address: str) -> None:
    changes, message = REFUSED[address]
    create(admin, "default", changes)  # It is valid where there is no policy.
    assert message in refusal(admin, limited, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"uri": "s3://limited/model", "adapter": {"uri": "s3://limited/adapter"}}},
        taught(uri="s3://models/teacher"),
        answered("https://models.example/v1"),
        searched("https://models.example/v1"),
    ],
    ids=["hub", "bucket", "teacher", "teacher at an endpoint", "endpoint"],
)
def test_an_allowed_address_is_accepted(admin: Api, limited: str, changes: dict[str, Any]) -> None:
    assert refusal(admin, limited, changes) == ""


def test_the_network_policy_is_valid(admin: Api) -> None:
    policy = OBJECTS["NetworkPolicy"]
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    metadata = {**policy["metadata"], "namespace": "default"}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    created = admin.request("POST", path, {**policy, "metadata": metadata}, query=query)
    assert created["spec"]["podSelector"] == policy["spec"]["podSelector"]
