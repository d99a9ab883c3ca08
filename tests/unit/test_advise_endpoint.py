"""``finetune advise`` for a model behind an endpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.stage import PrepareResult, Stage
from finetune_cli.advise.endpoint import EndpointAdvice, with_search
from finetune_cli.advise.models import ModelScore
from finetune_cli.advise.report import WIDTH
from finetune_cli.source import Document
from tests.builders import a_job, a_report
from tests.unit.advice_fixtures import CLASSES

SCORES = [ModelScore("hf://b/c", "accuracy of the linear probe", 0.7, True, 200, 10**6, 5.0)]


def advice(endpoint: dict[str, Any] | None = None, **search: Any) -> EndpointAdvice:
    """The advice for 621 validation and 621 test rows."""
    result = a_report(Stage.PREPARE).result
    assert isinstance(result, PrepareResult)
    model = {"endpoint": {"url": "https://models.example/v1", "model": "large", **(endpoint or {})}}
    method = {"type": "PromptSearch", "promptSearch": {"candidates": ["Which? {text}"], **search}}
    spec = a_job(task={"type": "TextClassification"}, model=model, method=method, distributed={}).spec
    return EndpointAdvice.of(spec, result, (9000, 1000), SCORES)


def test_requests_are_those_of_the_search_and_of_the_evaluation() -> None:
    found = advice(trials=10, propose=2)
    # Proposals, of which some may be empty; the combinations, the plain prompt and the best instruction alone.
    assert found.searching == 3 * 2 + (10 + 2) * 200
    assert found.measuring == 2 * 621
    assert found.document()["search"]["requests"] == found.searching + found.measuring


def test_budgets_are_said_and_whether_they_are_enough() -> None:
    text = " ".join(advice({"maxRequests": 100, "maxTokens": 5000}, maxTokens=400).sentences())
    assert "model.endpoint.maxRequests 100, model.endpoint.maxTokens 5,000, method.promptSearch.maxTokens 400" in text
    assert "100 requests may not be enough, and the job fails above them: raise model.endpoint.maxRequests" in text
    assert "Above method.promptSearch.maxTokens the search ends with the best prompt so far." in text
    enough = " ".join(advice({"maxRequests": 10**6}).sentences())
    assert "may not be enough" not in enough
    assert "It reads and writes about 10,000 tokens: 9,000 to score combinations, and 1,000 to measure." in enough
    assert "No budget limits this" in " ".join(advice().sentences())


def test_people_and_programs_get_the_same() -> None:
    found = advice({"maxRequests": 10_000})
    lines, document = found.lines(), json.loads(json.dumps(found.document()))
    assert max(map(len, lines)) <= WIDTH
    assert "Methods that train need its weights in model.uri." in " ".join(lines)
    assert "Best on these rows: b/c with 0.7." in lines
    assert document["recommendation"] == {"method": "PromptSearch", "manifest": []}
    assert (document["search"]["tokens"], document["search"]["searchTokens"]) == (10_000, 9_000)
    assert document["models"][0]["value"] == 0.7
    assert document["search"]["maxRequests"] == 10_000


@pytest.mark.parametrize(
    ("of_endpoint", "of_search", "short"),
    [
        (None, None, []),
        (10_000, 9_000, []),
        (9_999, None, ["model.endpoint.maxTokens"]),
        (None, 8_999, ["method.promptSearch.maxTokens"]),
        (1_500, 500, ["method.promptSearch.maxTokens"]),
        (1_499, 500, ["method.promptSearch.maxTokens", "model.endpoint.maxTokens"]),
    ],
)
def test_budgets_of_tokens_below_the_estimate(of_endpoint: int | None, of_search: int | None, short: list[str]) -> None:
    found = advice({"maxTokens": of_endpoint} if of_endpoint else {}, **({"maxTokens": of_search} if of_search else {}))
    raised = [line.partition(": raise ")[2].partition(",")[0] for line in found.sentences() if "may not be" in line]
    assert raised == short


def test_without_a_method_a_search_is_suggested() -> None:
    spec = {"model": {"endpoint": {"url": "http://localhost/v1", "model": "large"}}, "task": CLASSES}
    changed, lines = with_search(Document({"spec": spec}, 1))
    assert changed.data["spec"].pop("method") == {"type": "PromptSearch", "promptSearch": {"propose": 4}}
    assert changed.data["spec"] == spec
    found = replace(advice(), manifest="job.yaml", suggested=lines)
    line = "method: {type: PromptSearch, promptSearch: {propose: 4}}"
    assert found.lines()[-2:] == ["In job.yaml, below spec:", f"  {line}"]
    assert found.document()["recommendation"]["manifest"] == [line]


@pytest.mark.parametrize(
    "data",
    [
        {"spec": {"model": {"uri": "hf://o/m"}}},
        {"spec": {"model": None}},
        {"spec": {"model": {"endpoint": {"url": "x"}}, "method": {"type": "LoRA"}}},
        [],
    ],
)
def test_other_manifests_stay_as_they_are(data: Any) -> None:
    document = Document(data, 1)
    assert with_search(document) == (document, ())


def test_a_suggested_search_runs_in_one_process() -> None:
    spec = {"model": {"endpoint": {"url": "http://localhost/v1"}}, "distributed": {"workers": 2, "gpusPerWorker": 0}}
    changed, lines = with_search(Document({"spec": spec}, 1))
    assert changed.data["spec"]["distributed"] == {"workers": 1, "gpusPerWorker": 0}
    assert lines[1:] == ("distributed: {workers: 1}",)
    wrong = {"workers": "two"}
    changed, lines = with_search(Document({"spec": {**spec, "distributed": wrong}}, 1))
    assert (changed.data["spec"]["distributed"], len(lines)) == (wrong, 1)
