"""What the trainer says that methods cost, compared with what training and models of the same size really need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage, TrainResult
from finetune_trainer.costs import Request, costs
from finetune_trainer.modelling.live_memory import LiveMemory
from finetune_trainer.prepared import read_report
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_of
from finetune_trainer.train.batches import EpochBatches
from finetune_trainer.train.settings import plan_training
from tests.trainer.conftest import prepared
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.stages import TinyJob

METHODS = ("Full", "LoRA", "IA3", "PromptTuning", "PrefixTuning", "PTuning")


def answer(job: TinyJob, scratch: Path, *specs: Mapping[str, Any], **request: Any) -> dict[str, Any]:
    """The answer of the trainer for the job with parts of its spec replaced."""
    document = {
        "prepared": (job.revision / "prepared").as_uri(),
        "specs": [{**job.spec, **spec} for spec in specs],
        "world": {"workers": 1, "processesPerWorker": 1, "device": "cpu"},
        **request,
    }
    return costs(Request.model_validate_json(json.dumps(document)), scratch)


def test_trained_parameters_are_those_of_training(classification: TinyJob, tmp_path: Path) -> None:
    found = answer(classification, tmp_path, *({"method": {"type": method}} for method in METHODS))["candidates"]
    assert len({one["trained"] for one in found}) == len(METHODS)
    job = classification.named("costs", method={"type": "PTuning"}, training={"maxSteps": 1})
    outcome = job.run(Stage.TRAIN)
    assert isinstance(outcome.report.result, TrainResult), outcome.log
    assert outcome.report.result.trainable_parameters == found[-1]["trained"]
    training = json.loads((job.revision / "trained" / "training.json").read_text())
    assert training["peakMemoryBytes"] > 0


def test_activations_are_the_peak_of_a_real_step(instruction: TinyJob, tmp_path: Path) -> None:
    found = answer(instruction, tmp_path, {"method": {"type": "Full"}})["candidates"][0]
    spec = FineTuneJobSpec.model_validate_json(json.dumps({**instruction.spec, "method": {"type": "Full"}}))
    directory = instruction.revision / "prepared"
    report = read_report(directory)
    form = form_of(spec.task.type, report.family)
    data = form.dataset(open_split(directory, "train"), spec, report)
    plan = plan_training(spec, len(data), 1, report.handling.batching)
    rows = next(iter(EpochBatches(data.lengths, plan.sizes, 0, spec.training.seed)))
    model: Any = AutoModelForCausalLM.from_pretrained(instruction.root / "base").train()
    model.config.use_cache = False
    batch = form.collator(report.padding, model)([data[row] for row in rows])
    labels = batch.pop("labels")
    with LiveMemory() as live:
        form.loss(model(**batch).logits, labels, torch.tensor(1)).backward()
    gradients = 4 * sum(parameter.numel() for parameter in model.parameters())
    # At the peak of a larger model there are few gradients, and here few of them.
    assert 0.8 * (live.peak - gradients) < found["activationBytes"] < 1.2 * live.peak
    assert found["recomputedBytes"] < found["activationBytes"]
    assert found["rows"] == plan.sizes.per_device


def test_packed_rows_that_are_too_few_are_counted(instruction: TinyJob, tmp_path: Path) -> None:
    many = {"world": {"workers": 1, "processesPerWorker": 32, "device": "cpu"}}
    packed, alone = answer(
        instruction, tmp_path, *({"training": {"packing": one, "batchSize": 32}} for one in (True, False)), **many
    )["candidates"]
    assert 0 < packed["packedRows"] < 32
    assert f"has only {packed['packedRows']} packed rows for 32 processes" in packed["error"]
    assert "error" not in alone


def test_gpus_by_name_use_bf16_and_no_logits(instruction: TinyJob, tmp_path: Path) -> None:
    full = {"method": {"type": "Full"}}
    on_gpu = {"world": {"workers": 1, "processesPerWorker": 1, "device": "gpu"}}
    new = answer(instruction, tmp_path, full, bf16=True, **on_gpu)
    old = answer(instruction, tmp_path / "old", full, bf16=False, **on_gpu)
    assert [one["candidates"][0]["precision"] for one in (new, old)] == ["BF16", "FP32"]
    assert new["candidates"][0]["activationBytes"] < old["candidates"][0]["activationBytes"] / 1.5
    assert (new["memoryBytes"], new["programBytes"]) == (None, 0)
    cpu = answer(instruction, tmp_path / "cpu", full)
    assert cpu["programBytes"] > 1 << 27
    assert cpu["memoryBytes"] > 1 << 27
    assert 0 < cpu["data"]["learnedTokens"] < 2392


def test_what_does_not_fit_the_model_is_said(classification: TinyJob, tmp_path: Path) -> None:
    found = answer(
        classification,
        tmp_path,
        {"method": {"type": "LoRA", "lora": {"targetModules": ["nothing"]}}},
        {"method": {"type": "LoRA"}, "model": {**classification.spec["model"], "quantization": "NF4"}},
    )["candidates"]
    assert "nothing" in found[0]["error"]
    assert found[1]["rounded"] > 0


def test_pairs_of_answers_have_costs(tmp_path: Path) -> None:
    job = prepared(preference_job(tmp_path / "job", "DPO"))
    found = answer(job, tmp_path / "scratch", {})
    assert found["candidates"][0]["activationBytes"] > 0
    assert found["data"]["learnedTokens"] > 0


def test_weights_that_are_not_here_leave_the_head_of_the_task(classification: TinyJob, tmp_path: Path) -> None:
    from finetune_trainer.train.shapes import head_of

    directory = classification.revision / "prepared"
    report = read_report(directory)
    spec = FineTuneJobSpec.model_validate_json(json.dumps(classification.spec))
    form = form_of(spec.task.type, report.family)
    base = classification.root / "base"
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    assert set(head_of(tmp_path, spec, report, form)) == set(head_of(base, spec, report, form))
