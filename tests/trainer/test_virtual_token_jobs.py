"""Jobs with virtual tokens: from the data to the artifact, a resumed training, and what prepare refuses or notes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.preference_tuning.objective import REFERENCE
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.stages import TinyJob
from tests.trainer.test_virtual_tokens import COUNT, settings
from tests.trainer.tiny_models import LABELS

KEEP = {"keep": {"preparedData": True}}


def run(job: TinyJob, *stages: Stage) -> None:
    for stage in stages:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log


def test_a_classifier_is_published_with_its_head(classification: TinyJob) -> None:
    """Its rows have the same probabilities with plain PEFT, alone, as in the evaluation, in batches."""
    job = classification.named("prompted", method=settings("PTuning"), distributed={"zero": {"stage": 0}}, output=KEEP)
    run(job, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
    torch.manual_seed(99)
    base = AutoModelForSequenceClassification.from_pretrained(job.root / "base", num_labels=len(LABELS))
    model = PeftModel.from_pretrained(base, job.artifact).eval()
    rows = open_split(job.revision / "prepared", "test")["input_ids"].to_pylist()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([row])).logits.softmax(dim=-1).max().item() for row in rows]
    assert found == pytest.approx([row["confidence"]["tuned"] for row in job.predictions], abs=1e-5)
    assert f"| Virtual tokens | {COUNT}, which take positions" in (job.artifact / "README.md").read_text()


@pytest.mark.parametrize("stage", [0, 2])
def test_a_resumed_training_goes_on_where_it_stopped(classification: TinyJob, stage: int) -> None:
    """PTuning publishes what its network computes, and trains the network."""
    distributed = {"zero": {"stage": stage}}
    whole = classification.named(f"whole{stage}", method=settings("PTuning"), distributed=distributed)
    run(whole, Stage.TRAIN)
    losses, weights = whole.losses(), load_file(whole.revision / "trained" / "adapter_model.safetensors")
    shutil.rmtree(whole.revision / "trained")
    assert len(whole.steps_stored) == 2  # A checkpoint may be left out while an earlier one is uploaded.
    shutil.rmtree(whole.checkpoints[-1])
    outcome = whole.run(Stage.TRAIN, attempt=2)
    assert outcome.code == 0, outcome.log
    assert whole.losses() == pytest.approx(losses, rel=1e-4)
    again = load_file(whole.revision / "trained" / "adapter_model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight, rtol=1e-3, atol=1e-5)


def test_loss_and_token_accuracy_are_those_of_plain_peft(instruction: TinyJob) -> None:
    metrics = {"metrics": ["token_accuracy", "loss", "exact_match"], "generation": {"maxNewTokens": 8}}
    job = instruction.named("scored", method=settings("PromptTuning"), evaluation=metrics, output=KEEP)
    run(job, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(job.root / "base"), job.artifact).eval()
    losses, hits = [], []
    for row in open_split(job.revision / "prepared", "test").to_pylist():
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, COUNT:-1][labels != -100]
        learned = labels[labels != -100]
        losses += torch.nn.functional.cross_entropy(logits, learned, reduction="none").tolist()
        hits += (logits.argmax(dim=-1) == learned).tolist()
    scores = {metric["name"]: metric["tuned"] for metric in job.evaluation["metrics"]}
    assert scores["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert scores["token_accuracy"] == pytest.approx(np.mean(hits), abs=1e-9)


def test_preferences_are_compared_with_the_model_without_the_prompt(tmp_path: Path) -> None:
    job = preference_job(tmp_path, "DPO")
    spec = {**job.spec, "method": settings("PromptTuning")}
    job = TinyJob(job.root, spec | {"training": {**spec["training"], "maxSteps": 4}})
    run(job, Stage.PREPARE, Stage.TRAIN)
    with np.load(job.checkpoints[-1] / REFERENCE) as stored:
        references = stored["train"][:, 0]
    model = AutoModelForCausalLM.from_pretrained(job.root / "base").eval()
    expected = []
    for row in open_split(job.revision / "prepared", "train").to_pylist():
        tokens = torch.tensor([[*row["prompt_ids"], *row["chosen_ids"]]])
        with torch.no_grad():
            scores = model(input_ids=tokens).logits[0, :-1].log_softmax(dim=-1).gather(1, tokens[0, 1:, None])
        expected.append(float(scores[-len(row["chosen_ids"]) :].sum()))
    assert references == pytest.approx(expected, abs=1e-4)


def refusal(job: TinyJob, name: str, **changes: Any) -> str:
    """The message with which prepare refuses a change of ``job``, whose data is removed."""
    changed = job.named(name, **changes)
    shutil.rmtree(changed.revision / "prepared")
    outcome = changed.run(Stage.PREPARE)
    assert outcome.report.error is not None
    assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
    return outcome.message


def test_virtual_tokens_beyond_the_positions_are_refused(classification: TinyJob) -> None:
    both = refusal(
        classification,
        "too-long",
        method=settings("PrefixTuning", 20),
        training={"maxSequenceLength": 64},
    )
    assert "training.maxSequenceLength is 64 and method.prefixTuning.virtualTokens 20, 84 in all, but" in both
    assert both.endswith("supports at most 64 positions: lower maxSequenceLength to 44")
    only = refusal(classification, "no-room", method=settings("PTuning", 64))
    assert "method.pTuning.virtualTokens is 64, but" in only
    assert only.endswith("leaves no room for a text of 8 tokens: lower it to at most 56")


def test_a_classifier_that_reads_the_last_position_is_refused(classification: TinyJob, llama: Path) -> None:
    message = refusal(classification, "decoder", method=settings("PromptTuning"), model={"uri": llama.as_uri()})
    assert "method PromptTuning is not for TextClassification with a decoder, which reads the class at" in message
    assert message.endswith("use Full or LoRA or IA3 or PrefixTuning, or another model")


def test_texts_get_the_positions_that_are_left_and_the_initial_text_is_noted(classification: TinyJob) -> None:
    job = classification.named("noted", method=settings("PromptTuning", 20, initText="snow rain nothing"))
    shutil.rmtree(job.revision / "prepared")
    outcome = job.run(Stage.PREPARE)
    assert outcome.code == 0, outcome.log
    report = json.loads((job.revision / "prepared" / "data.json").read_text())
    assert report["max_sequence_length"] == 44
    assert len(report["initial_tokens"]) == 20
    assert report["initial_tokens"][:3] == report["initial_tokens"][3:6]
    notes = "; ".join(report["notes"])
    assert "method.promptTuning.initText has 3 tokens, which are repeated for 20 virtual tokens" in notes
    assert "method.promptTuning.initText has 1 tokens that are unknown" in notes
