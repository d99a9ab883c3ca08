"""The trainer's stages on a GPU, which differ in precision, memory and DeepSpeed's kernels.

`make test-gpu` runs them. `make test`, which needs no GPU, does not.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import Stage
from tests.trainer.stages import TinyJob

TRAIN = Stage.TRAIN
WORLD = {"workers": 1, "processesPerWorker": 1, "device": "gpu"}
STEPS, EVERY = 150, 50
"""Long enough for a kill between two checkpoints: tiny models run a hundred steps per second."""


def _on_gpu(job: TinyJob, name: str, zero: int, **changes: Any) -> TinyJob:
    training = {"maxSteps": STEPS, "checkpoint": {"everySteps": EVERY}} | changes.pop("training", {})
    return job.named(name, distributed={"gpusPerWorker": 1, "zero": {"stage": zero}}, training=training, **changes)


@pytest.mark.parametrize(
    ("method", "zero", "precision"),
    [
        ("LoRA", 0, "BF16"),
        ("LoRA", 2, "BF16"),
        ("LoRA", 3, "BF16"),
        ("LoRA", 2, "FP16"),
        ("Full", 0, "FP32"),
        ("Full", 2, "BF16"),
        ("Full", 3, "BF16"),
        ("Full", 3, "FP16"),
    ],
)
def test_a_killed_training_resumes_to_the_same_losses(
    instruction: TinyJob, method: str, zero: int, precision: str
) -> None:
    name = f"{method}-{zero}-{precision}".lower()
    changes = {"method": {"type": method}, "training": {"precision": precision}}
    undisturbed = _on_gpu(instruction, name, zero, **changes)
    outcome = undisturbed.run(TRAIN, world=WORLD)
    assert outcome.code == 0, outcome.log
    losses = undisturbed.losses()
    assert losses[-1] < (0.99 if method == "LoRA" else 0.8) * losses[0]

    job = _on_gpu(instruction, f"{name}-killed", zero, **changes)
    with job.start(TRAIN, world=WORLD) as running:
        running.wait_until(lambda: bool(job.checkpoints))
        os.kill(running.worker_pids()[0], signal.SIGKILL)
        killed = running.wait()
    assert killed.code == ExitCode.INTERNAL, killed.log
    assert job.steps_stored[-1] < STEPS
    resumed = job.run(TRAIN, attempt=2, world=WORLD)
    assert resumed.code == 0, resumed.log
    # GPU kernels sum in a different order each time.
    assert job.losses() == pytest.approx(losses, rel=0.05, abs=0.01)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_stop_stores_a_checkpoint_of_the_last_step(instruction: TinyJob, zero: int) -> None:
    job = _on_gpu(instruction, f"stopped-{zero}", zero, training={"checkpoint": {"everySteps": STEPS}})
    with job.start(TRAIN, world=WORLD) as running:
        running.wait_for_step(3)
        running.process.send_signal(signal.SIGTERM)
        stopped = running.wait()
    assert stopped.code == ExitCode.STOPPED, stopped.log
    assert stopped.report.checkpoint is not None
    assert job.steps_stored == [stopped.report.checkpoint.step]


@pytest.mark.parametrize(
    ("kind", "base"), [("classification", AutoModelForSequenceClassification), ("instruction", AutoModelForCausalLM)]
)
def test_an_adapter_trained_on_a_gpu_improves_the_score_and_loads_with_peft(
    kind: str, base: Any, request: pytest.FixtureRequest
) -> None:
    job = _on_gpu(request.getfixturevalue(kind), "published", 2)
    reports = {}
    for stage in (TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = job.run(stage, world=WORLD)
        assert outcome.code == 0, outcome.log
        reports[stage] = outcome.report
    evaluated, published = reports[Stage.EVALUATE].evaluate, reports[Stage.PUBLISH].publish
    assert evaluated is not None
    assert published is not None
    score = evaluated.evaluation.metrics[0]
    # One word determines the label, so the baseline, a linear probe on the base model's features, scores well too.
    assert score.tuned > 0.85 if kind == "classification" else score.improvement > 0, score
    model = base.from_pretrained(job.root / "base", **({"num_labels": 3} if kind == "classification" else {}))
    tuned = PeftModel.from_pretrained(model, published.uri.removeprefix("file://"))
    adapter = [weight for name, weight in tuned.named_parameters() if "lora_B" in name]
    assert adapter
    assert all(weight.isfinite().all() and weight.abs().sum() > 0 for weight in adapter)


def test_out_of_memory_names_the_setting_to_change(instruction: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "per_process_memory_fraction:0.0001")
    job = _on_gpu(instruction, "no-memory", 2)
    outcome = job.run(TRAIN, world=WORLD)
    assert outcome.code == ExitCode.DOES_NOT_FIT, outcome.log
    assert outcome.report.error is not None
    assert outcome.report.error.reason is Reason.OUT_OF_MEMORY
    assert "maxBatchSizePerDevice" in outcome.message
