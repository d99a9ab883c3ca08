"""Whole jobs that continue from published virtual tokens."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.stage import Stage
from finetune_trainer.splits import open_split
from tests.trainer.conftest import prepared
from tests.trainer.continuing_fixtures import a_published_adapter
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.stages import TinyJob, instruction_job
from tests.trainer.test_virtual_token_jobs import run
from tests.trainer.test_virtual_tokens import COUNT, settings
from tests.trainer.tiny_models import LABELS, STRONG_INIT, save_llama

WEIGHTS = "adapter_model.safetensors"


def test_a_classifier_continues_with_the_virtual_tokens_of_its_adapter(classification: TinyJob) -> None:
    """It resumes from its own checkpoint, and plain PEFT has the probabilities of the evaluation."""
    base, adapter = classification.root / "base", classification.root / "prompt"
    origin = settings("PromptTuning", initText="snow rain")
    _, digest = a_published_adapter(adapter, base, origin, "TextClassification")
    spec = {
        **classification.spec,
        "model": {"uri": base.as_uri(), "adapter": {"uri": adapter.as_uri()}},
        "method": {"type": "PromptTuning"},
        "output": {**classification.spec["output"], "keep": {"preparedData": True}},
        "evaluation": {"publishWorse": True, "baseline": "Previous"},
    }
    job = prepared(TinyJob(classification.root, spec, "continued-prompt"))
    data = json.loads((job.revision / "prepared" / "data.json").read_text())
    assert (data["virtual_tokens"], data["initial_tokens"]) == (COUNT, [])
    assert data["max_sequence_length"] == data["model"]["max_positions"] - COUNT

    run(job, Stage.TRAIN)
    losses, weights = job.losses(), load_file(job.revision / "trained" / WEIGHTS)
    shutil.rmtree(job.revision / "trained")
    shutil.rmtree(job.checkpoints[-1])
    assert job.steps_stored  # The training resumes from this step.
    outcome = job.run(Stage.TRAIN, attempt=2)
    assert outcome.code == 0, outcome.log
    assert job.losses() == pytest.approx(losses, rel=1e-4)
    again = load_file(job.revision / "trained" / WEIGHTS)
    torch.testing.assert_close(again, weights, rtol=1e-3, atol=1e-5)
    start = load_file(adapter / WEIGHTS)
    assert {name: one.shape for name, one in again.items()} == {name: one.shape for name, one in start.items()}
    assert 0 < (again["prompt_embeddings"] - start["prompt_embeddings"]).abs().max() < 0.5

    run(job, Stage.EVALUATE, Stage.PUBLISH)
    rows = open_split(job.revision / "prepared", "test")["input_ids"].to_pylist()
    for side, directory in (("baseline", adapter), ("tuned", job.artifact)):
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
        model = PeftModel.from_pretrained(model, directory).eval()
        with torch.no_grad():
            found = [model(input_ids=torch.tensor([row])).logits.softmax(dim=-1).max().item() for row in rows]
        assert found == pytest.approx([row["confidence"][side] for row in job.predictions], abs=1e-5)
    assert job.evaluation["baseline"]["kind"] == "Previous"
    assert job.evaluation["details"]["previous"]["digest"] == digest
    card = (job.artifact / "README.md").read_text()
    assert f"| Virtual tokens | {COUNT}, which take positions" in card
    assert "Initial text" not in card


@pytest.mark.parametrize(("name", "stage"), [("PrefixTuning", 0), ("PromptTuning", 2)])
def test_preferences_are_compared_with_the_virtual_tokens_of_the_adapter(tmp_path: Path, name: str, stage: int) -> None:
    plain = preference_job(tmp_path, "DPO")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    a_published_adapter(adapter, base, settings(name))
    spec = {
        **plain.spec,
        "model": {**plain.spec["model"], "adapter": {"uri": adapter.as_uri()}},
        "method": {"type": name, "preference": {"loss": "DPO"}},
        "training": {**plain.spec["training"], "maxSteps": 4},
        "distributed": {**plain.spec["distributed"], "zero": {"stage": stage}},
    }
    job = prepared(TinyJob(tmp_path, spec, "dpo"))
    run(job, Stage.TRAIN, Stage.EVALUATE)
    assert job.losses()[0] == pytest.approx(math.log(2), abs=1e-5)
    metrics = {metric["name"]: metric for metric in job.evaluation["metrics"]}
    assert metrics["margin"]["measuredAgainst"] == "Previous"
    chosen = [row["logProbabilities"]["chosen"] for row in job.predictions]
    assert max(abs(row["reference"] - row["baseline"]) for row in chosen) > 1e-2
    for side, directory in (("reference", adapter), ("tuned", job.revision / "trained")):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
        assert [row[side] for row in chosen] == pytest.approx(_log_probabilities(model, job), abs=1e-3)


def _log_probabilities(model: PeftModel, job: TinyJob) -> list[float]:
    """Those of the chosen answers of the test split, each alone, with plain PEFT."""
    found = []
    for row in open_split(job.revision / "prepared", "test").to_pylist():
        tokens = torch.tensor([[*row["prompt_ids"], *row["chosen_ids"]]])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, -tokens.shape[1] : -1]
        scores = logits.log_softmax(dim=-1).gather(1, tokens[0, 1:, None])
        found.append(float(scores[-len(row["chosen_ids"]) :].sum()))
    return found


def test_an_adapter_is_measured_against_earlier_virtual_tokens(tmp_path: Path) -> None:
    """The answers of the earlier model are those of plain PEFT, prompt by prompt: its batches have no padding."""
    plain = instruction_job(tmp_path, examples=80)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tokenizer = save_llama(base, STRONG_INIT)
    _, digest = a_published_adapter(adapter, base, settings("PromptTuning"))
    previous = {"revision": 1, "uri": adapter.as_uri(), "digest": digest}
    evaluation = {**plain.spec["evaluation"], "baseline": "Previous", "metrics": ["exact_match"]}
    training = {**plain.spec["training"], "maxSteps": 1}
    job = TinyJob(tmp_path, {**plain.spec, "evaluation": evaluation, "training": training}, "later")
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE):
        outcome = job.run(stage, previous=previous)
        assert outcome.code == 0, outcome.log
    assert job.evaluation["baseline"]["kind"] == "Previous"
    rows = open_split(job.revision / "prepared", "test").to_pylist()
    assert len({row["prompt_length"] for row in rows}) > 1
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    expected = []
    for row in rows:
        prompt = torch.tensor([row["input_ids"][: row["prompt_length"]]])
        made = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False)
        expected.append(tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True))
    assert [row["baseline"] for row in job.predictions] == expected
