"""Jobs whose model is behind an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.api import Refused
from tests.apiserver.desk import Desk, condition

ENDPOINT = {"url": "https://models.example/v1", "model": "owner/served", "secretRef": {"name": "model-key"}}
PROPOSER = {"url": "https://other.example/v1", "model": "large", "secretRef": {"name": "proposer-key"}}


def search(**settings: Any) -> dict[str, Any]:
    return {"type": "PromptSearch", "promptSearch": {"candidates": ["Intent of: {text}"], **settings}}


@pytest.mark.usefixtures("operator")
def test_a_search_runs_without_a_gpu_and_with_the_keys_where_they_are_needed(desk: Desk) -> None:
    desk.apply(model={"endpoint": ENDPOINT}, method=search(propose=2, proposer=PROPOSER))
    status = desk.run_all()
    assert [entry["state"] for entry in status["stages"]] == ["Succeeded"] * 4
    assert condition(status, "Ready")["status"] == "True"
    assert status["phase"] == "Succeeded"
    containers = {
        child["metadata"]["labels"]["finetune.dev/stage"]: child["spec"]["template"]["spec"]["containers"][0]
        for child in desk.children()
    }
    assert [one["resources"].get("limits", {}).get("nvidia.com/gpu") for one in containers.values()] == [None] * 4
    keys = {
        stage: {source["prefix"]: source["secretRef"]["name"] for source in container.get("envFrom", [])}
        for stage, container in containers.items()
    }
    of_model = {"FINETUNE_SECRET_ENDPOINT_": "model-key"}
    assert keys == {
        "prepare": {},
        "train": of_model | {"FINETUNE_SECRET_PROPOSER_": "proposer-key"},
        "evaluate": of_model,
        "publish": {},
    }


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"model": {"endpoint": ENDPOINT}}, "model.endpoint is only valid for method PromptSearch"),
        (
            {"model": {"endpoint": ENDPOINT, "uri": "hf://o/m"}, "method": search()},
            "set either model.uri or model.endpoint",
        ),
        ({"model": {"endpoint": ENDPOINT, "quantization": "NF4"}, "method": search()}, "quantization requires uri"),
        (
            {"model": {"endpoint": ENDPOINT}, "method": search(), "evaluation": {"metrics": ["auroc"]}},
            "cannot be measured with model.endpoint",
        ),
        (
            {"model": {"endpoint": ENDPOINT}, "method": search(), "distributed": {"gpusPerWorker": 2}},
            "which runs in one process",
        ),
        ({"method": search(proposer=PROPOSER)}, "proposer requires propose"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused(desk: Desk, spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        desk.apply(**spec)
