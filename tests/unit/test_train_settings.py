"""Steps, batch sizes, precision and DeepSpeed's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.stage import Device
from finetune_trainer.modelling.precision import resolve_precision
from finetune_trainer.train.settings import deepspeed_config, plan_training
from tests.builders import a_job


def spec(**parts: Any) -> FineTuneJobSpec:
    return a_job(**parts).spec


def test_default_is_three_epochs() -> None:
    plan = plan_training(spec(training={"batchSize": 32}), rows=320, processes=1, batching=True)
    assert (plan.steps_per_epoch, plan.steps, plan.evaluate_every) == (10, 30, 10)


def test_max_steps_override_epochs_and_epochs_may_be_fractional() -> None:
    assert plan_training(spec(training={"maxSteps": 7}), rows=320, processes=1, batching=True).steps == 7
    assert (
        plan_training(spec(training={"epochs": 0.25, "batchSize": 32}), rows=320, processes=1, batching=True).steps == 3
    )


def test_default_warm_up_is_three_percent() -> None:
    assert plan_training(spec(training={"maxSteps": 200}), rows=320, processes=1, batching=True).warmup_steps == 6
    assert (
        plan_training(
            spec(training={"maxSteps": 200, "warmupSteps": 0}), rows=320, processes=1, batching=True
        ).warmup_steps
        == 0
    )


def test_a_long_run_logs_every_tenth_step() -> None:
    assert plan_training(spec(training={"maxSteps": 100}), rows=320, processes=1, batching=True).log_every == 1
    assert plan_training(spec(training={"maxSteps": 50_000}), rows=320, processes=1, batching=True).log_every == 10


def test_more_processes_than_training_rows_are_rejected() -> None:
    with pytest.raises(StageFailure, match="has only 3 rows for 4 processes: add data") as caught:
        plan_training(spec(), rows=3, processes=4, batching=True)
    assert caught.value.reason is Reason.BAD_DATA
    assert "packed" not in caught.value.message
    for task, way in (
        ("InstructionTuning", "set training.packing to false"),
        ("LanguageModeling", "maxSequenceLength"),
    ):
        with pytest.raises(StageFailure, match=f"has only 3 packed rows for 4 processes: .*{way}"):
            plan_training(spec(task={"type": task}), rows=3, processes=4, batching=True)


@pytest.mark.parametrize(
    ("asked", "device", "supported", "expected"),
    [
        (Precision.AUTO, Device.GPU, True, Precision.BF16),
        (Precision.AUTO, Device.GPU, False, Precision.FP32),
        (Precision.AUTO, Device.CPU, True, Precision.FP32),
        (Precision.BF16, Device.CPU, True, Precision.BF16),
        (Precision.FP16, Device.GPU, False, Precision.FP16),
    ],
)
def test_resolved_precision(asked: Precision, device: Device, supported: bool, expected: Precision) -> None:
    assert resolve_precision(asked, device, supported) is expected


@pytest.mark.parametrize(("asked", "device"), [(Precision.FP16, Device.CPU), (Precision.BF16, Device.GPU)])
def test_a_precision_that_the_device_does_not_support_is_rejected(asked: Precision, device: Device) -> None:
    with pytest.raises(StageFailure, match="use Auto") as caught:
        resolve_precision(asked, device, bf16_supported=False)
    assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_deepspeed_configuration_contains_batch_sizes_precision_and_stage() -> None:
    job = spec(
        training={"batchSize": 64, "maxBatchSizePerDevice": 8, "maxGradNorm": 0.5},
        distributed={"workers": 2, "gpusPerWorker": 2, "zero": {"stage": 3}},
    )
    config = deepspeed_config(job, plan_training(job, rows=640, processes=4, batching=True), Precision.BF16)
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 4 == 64
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"]["enabled"]
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
