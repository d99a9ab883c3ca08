"""What the trainer says that a search for a prompt costs, and which methods it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from finetune_api.stage import Stage
from finetune_api.tables.methods import MethodType, Quantization
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.endpoint.messages import estimated_tokens
from finetune_trainer.modelling.live_memory import LiveMemory
from tests.combinations.cells import TRAINED, Cell, Form
from tests.combinations.inputs import cell_job
from tests.combinations.results import Outcome, read_results
from tests.endpoint_server import answer as reply
from tests.endpoint_server import endpoint
from tests.trainer.conftest import prepared
from tests.trainer.pair_models import save_marian
from tests.trainer.stages import TinyJob
from tests.trainer.test_costs import answer
from tests.trainer.test_prompt_search import a_job, run
from tests.trainer.tiny_models import STRONG_INIT, save_llama


def translation(root: Path, family: ModelFamily) -> TinyJob:
    return prepared(cell_job(root, Cell(Form(TaskType.TRANSLATION, family), *_LORA)))


_LORA = (MethodType.LORA, Quantization.NONE)


def search(*shots: int) -> dict[str, Any]:
    settings = {"candidates": ["to german: {source}"], "shots": shots}
    return {"method": {"type": "PromptSearch", "promptSearch": settings}}


def without_storage(work: Any) -> int:
    with FakeTensorMode(), LiveMemory() as live:
        work()
    return live.peak


def test_tensors_without_storage_have_the_peak_of_real_ones() -> None:
    def work() -> None:
        first = torch.zeros(1000, 1000)
        second = (first @ first).relu()
        del first
        second.view(-1)[:10].add_(1)
        second.softmax(dim=-1)

    with LiveMemory() as live:
        work()
    assert live.peak == without_storage(work) == 3 * 4 * 1000**2


def test_a_search_has_the_tokens_of_a_real_one(tmp_path: Path) -> None:
    root = tmp_path / "job"
    save_llama(root / "base", STRONG_INIT)
    job = a_job(root, {"uri": (root / "base").as_uri()})
    result = run(job, Stage.PREPARE, Stage.TRAIN)
    assert result is not None
    rounded = {"model": {**job.spec["model"], "quantization": "NF4"}}
    found, other = answer(job, tmp_path / "scratch", {}, rounded)["candidates"]
    assert found["rounded"] is None
    assert 0 < other["rounded"] < other["parameters"] == found["parameters"]
    assert found["tokens"] == pytest.approx(result.tokens, rel=0.3)
    assert (found["steps"], found["trained"], found["rows"]) == (5, 0, 16)
    model: Any = AutoModelForCausalLM.from_pretrained(root / "base")
    assert found["parameters"] == sum(one.numel() for one in model.parameters())
    # Two logits for each token at least: those of 32 tokens of a prompt with three examples.
    assert found["activationBytes"] > 4 * 16 * 32 * model.config.vocab_size


def test_a_search_at_an_endpoint_has_about_the_tokens_that_it_estimates(tmp_path: Path) -> None:
    root = tmp_path / "job"
    root.mkdir()
    with endpoint(lambda _, __: reply("weather", usage=False)) as server:
        job = a_job(root, {"endpoint": {"url": server.url, "model": "m"}}, shots=[3])
        result = run(job, Stage.PREPARE, Stage.TRAIN)
        assert result is not None
        searched = len(server.asked)
        run(job, Stage.EVALUATE)
        measured = [estimated_tokens(json.dumps(one["messages"]) + "weather") for one in server.asked[searched:]]
    (found,) = answer(job, tmp_path / "scratch", {})["candidates"]
    assert found["tokens"] == pytest.approx(result.tokens, rel=0.3)
    # What the search has asked already is not asked again.
    assert found["measuredTokens"] == pytest.approx(np.mean(measured) * 2 * len(job.predictions), rel=0.3)
    assert (found["parameters"], found["activationBytes"]) == (0, None)


def test_searches_whose_answers_are_generated(tmp_path: Path) -> None:
    for family, template in ((ModelFamily.CAUSAL, True), (ModelFamily.SEQ2SEQ, None)):
        job = translation(tmp_path / family, family)
        one, other = answer(job, tmp_path / f"scratch-{family}", search(0, 2), search(0, 4))["candidates"]
        assert 0 < one["activationBytes"] < other["activationBytes"]
        assert one["tokens"] < other["tokens"]
        assert one["chatTemplate"] is template


def test_what_a_search_is_not_for(tmp_path: Path, classification: TinyJob) -> None:
    proposed = {"method": {"type": "PromptSearch", "promptSearch": {"propose": 1}}}
    (encoder,) = answer(classification, tmp_path / "encoder", proposed)["candidates"]
    assert "which follows no instruction" in encoder["error"]
    job = translation(tmp_path / "job", ModelFamily.SEQ2SEQ)
    (few,) = answer(job, tmp_path / "few", search(64))["candidates"]
    assert "asks for 64 examples" in few["error"]
    marian = cell_job(tmp_path / "marian", Cell(Form(TaskType.TRANSLATION, ModelFamily.SEQ2SEQ), *_LORA))
    shutil.rmtree(marian.root / "base")
    save_marian(marian.root / "base", ["the apple"], ["das elppa"])
    (other,) = answer(prepared(marian.changed(training={"maxSequenceLength": 96})), tmp_path / "other", search(0))[
        "candidates"
    ]
    assert "reads the text alone, and follows no instruction" in other["error"]


def test_what_prepare_refuses_is_not_possible(tmp_path: Path) -> None:
    form = Form(TaskType.TEXT_CLASSIFICATION, ModelFamily.CAUSAL)
    job = prepared(cell_job(tmp_path / "job", Cell(form, *_LORA)))
    results = read_results()
    cells = [Cell(form, method, one) for method in TRAINED for one in (Quantization.NONE, Quantization.NF4)]
    allowed = [cell for cell in cells if results[cell.name].outcome is not Outcome.ADMISSION]
    specs = [
        {"method": {"type": cell.method}, "model": {**job.spec["model"], "quantization": cell.quantization}}
        for cell in allowed
    ]
    found = answer(job, tmp_path / "scratch", *json.loads(json.dumps(specs)))["candidates"]
    refused = {cell.name for cell, one in zip(allowed, found, strict=True) if "error" in one}
    assert refused == {cell.name for cell in allowed if results[cell.name].outcome is Outcome.PREPARE}
    assert len(refused) == 4
