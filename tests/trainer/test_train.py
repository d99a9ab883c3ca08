"""The train stage as processes, at every ZeRO stage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage, TrainResult
from tests.trainer.forks.stage import LATE_IMPORT
from tests.trainer.stages import TinyJob

TRAIN = Stage.TRAIN


@pytest.fixture(scope="module")
def one_process(classification: TinyJob) -> TinyJob:
    """The reference: one process, no sharding."""
    job = classification.named("reference", distributed={"zero": {"stage": 0}})
    outcome = job.run(TRAIN)
    assert outcome.code == 0, outcome.log
    return job


def assert_lean(log: str) -> None:
    assert "torch._inductor.compile_fx" not in log, "seconds for a compiler that nobody uses"
    assert "deepspeed_shm_comm" not in log, "a minute for an op that nobody uses"


def test_a_stage_in_a_new_process_imports_what_it_needs(
    classification: TinyJob, one_process: TinyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other tests fork host and ranks from a process that has imported all libraries."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    job = classification.named("started", distributed={"zero": {"stage": 0}})
    outcome = job.run(TRAIN, forked=False)
    assert outcome.code == 0, outcome.log
    assert "deepspeed.runtime.engine" in outcome.log
    assert_lean(outcome.log)
    assert job.losses() == one_process.losses()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_train_like_one_at_every_zero_stage(
    classification: TinyJob, one_process: TinyJob, stage: int
) -> None:
    job = classification.named(f"zero{stage}", distributed={"zero": {"stage": stage}})
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    assert LATE_IMPORT in outcome.log, "the ranks were not forked"
    assert_lean(outcome.log)
    result = outcome.report.result
    assert isinstance(result, TrainResult)
    assert result.steps == 12
    # Adapter dropout differs on two ranks. In the first step it has no effect, because the adapter is still zero.
    assert job.losses()[0] == pytest.approx(one_process.losses()[0], rel=0.05)
    assert np.mean(job.losses()[-3:]) == pytest.approx(np.mean(one_process.losses()[-3:]), rel=0.25)
    assert result.tokens == sum(point["tokens"] for point in one_process.history())
    # Two checkpoints are kept. Checkpoints during an upload are skipped, except the last.
    assert job.steps_stored in ([8, 12], [4, 12])
    base = AutoModelForSequenceClassification.from_pretrained(job.root / "base", num_labels=3)
    adapter = PeftModel.from_pretrained(base, job.revision / "trained")
    assert any(float(weight.abs().sum()) > 0 for name, weight in adapter.named_parameters() if "lora_B" in name), (
        "the adapter learned nothing"
    )


def test_a_seed_reproduces_the_loss(classification: TinyJob, one_process: TinyJob) -> None:
    job = classification.named("same-seed", distributed={"zero": {"stage": 0}})
    assert job.run(TRAIN).code == 0
    assert job.losses() == one_process.losses()
    other = classification.named("other-seed", distributed={"zero": {"stage": 0}}, training={"seed": 18})
    assert other.run(TRAIN).code == 0
    assert other.losses() != one_process.losses()


def test_the_history_matches_the_prometheus_metrics(classification: TinyJob) -> None:
    job = classification.named("metrics", training={"maxSteps": 40})
    with job.start(TRAIN) as running:
        running.wait_for_step(5)
        page = running.metrics()
        progress = running.progress()
        assert running.wait().code == 0
    for series in (
        "finetune_train_loss",
        "finetune_train_learning_rate",
        "finetune_train_gradient_norm",
        "finetune_train_step",
        "finetune_train_tokens_total",
        "finetune_train_tokens_per_second",
        "finetune_train_step_seconds_bucket",
        "finetune_train_memory_bytes",
        "finetune_train_last_step_timestamp_seconds",
        "finetune_checkpoint_seconds_bucket",
    ):
        assert f"\n{series}" in page, series
    assert "tiny" not in page, "job names are no labels"
    assert progress is not None
    assert progress.total == 40
    assert progress.eta_seconds is not None
    assert progress.loss == pytest.approx(job.losses()[(progress.done or 1) - 1])


def test_full_finetuning_with_zero3_stores_complete_weights(instruction: TinyJob) -> None:
    job = instruction.named("full", method={"type": "Full"}, distributed={"zero": {"stage": 3}})
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    trained = AutoModelForCausalLM.from_pretrained(job.revision / "trained")
    base = AutoModelForCausalLM.from_pretrained(job.root / "base")
    assert {name: weight.shape for name, weight in trained.named_parameters()} == {
        name: weight.shape for name, weight in base.named_parameters()
    }
    changed = [
        name
        for (name, before), after in zip(base.named_parameters(), trained.parameters(), strict=True)
        if not before.equal(after)
    ]
    assert len(changed) == len(list(base.parameters()))
    assert isinstance(outcome.report.result, TrainResult)
    assert outcome.report.result.trainable_parameters == sum(weight.numel() for weight in base.parameters())
    assert not list((job.revision / "trained").glob("*.bin")), "no pickles"


def test_a_causal_model_learns_packed_rows_in_bf16(instruction: TinyJob) -> None:
    job = instruction.named(
        "packed", method={"type": "Full"}, training={"precision": "BF16", "maxSteps": 16, "learningRate": 1e-2}
    )
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    losses = job.losses()
    # The mean over answer tokens: initially about that of a uniform guess, for any world size and accumulation.
    assert losses[0] == pytest.approx(math.log(50), rel=0.25)
    assert losses[-1] < losses[0] * 0.8
    history = json.loads((job.revision / "trained" / "history.json").read_text())
    assert history["validation"][-1]["loss"] == pytest.approx(losses[-1], rel=0.35)


def test_early_stopping_keeps_the_best_weights(classification: TinyJob) -> None:
    # With this learning rate the loss cannot continue to decrease.
    job = classification.named(
        "early",
        training={
            "maxSteps": 60,
            "learningRate": 0.5,
            "evaluateEverySteps": 2,
            "earlyStopping": {"patience": 2},
            "checkpoint": {"everySteps": 100, "keep": 1},
        },
    )
    outcome = job.run(TRAIN)
    assert outcome.code == 0, outcome.log
    assert isinstance(outcome.report.result, TrainResult)
    assert outcome.report.result.stopped_early
    history = json.loads((job.revision / "trained" / "history.json").read_text())
    best = min(history["validation"], key=lambda point: point["loss"])["step"]
    assert best < outcome.report.result.steps
    kept = job.revision / "checkpoints" / f"step-{best:08d}" / "adapter_model.safetensors"
    assert (job.revision / "trained" / "adapter_model.safetensors").read_bytes() == kept.read_bytes()
    assert json.loads((job.revision / "trained" / "training.json").read_text())["weightsOfStep"] == best


def test_missing_target_modules_are_named(classification: TinyJob) -> None:
    job = classification.named("targets", method={"type": "LoRA", "lora": {"targetModules": ["q_proj", "query"]}})
    outcome = job.run(TRAIN)
    assert outcome.code == ExitCode.BAD_CONFIGURATION
    assert (
        "method.lora.targetModules contains q_proj, which BertForSequenceClassification does not have"
        in outcome.message
    )
    assert "use all-linear or names from dense, key, position_embeddings, query, " in outcome.message
