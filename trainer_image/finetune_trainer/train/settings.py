"""Derive steps, batch sizes, precision and DeepSpeed's configuration from the job's spec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.train.batches import BatchSizes, divide_batch

_DEFAULT_EPOCHS = 3.0
_DEFAULT_WARMUP_SHARE = 0.03
_MOST_LOGGED_STEPS = 5000
"""Maximum number of points of a curve; longer runs log the mean of several steps to limit the trainer state."""


@dataclass(frozen=True)
class TrainPlan:
    """Steps and batch sizes of a run, known before the model is loaded."""

    sizes: BatchSizes
    steps_per_epoch: int
    steps: int
    """Total number of optimizer steps."""
    warmup_steps: int
    evaluate_every: int
    log_every: int


def plan_training(spec: FineTuneJobSpec, rows: int, processes: int, batching: bool) -> TrainPlan:
    """Derive steps and batch sizes.

    Args:
        spec: The job's spec.
        rows: Number of training rows, after packing if it is enabled.
        processes: World size.
        batching: Whether rows of different length may share a batch on a device.

    Raises:
        StageFailure: BadData when there are fewer rows than processes.
    """
    training = spec.training
    if rows < processes:
        found = f"{rows} {'packed ' if spec.joins_rows else ''}row{'' if rows == 1 else 's'}"
        raise StageFailure(
            Reason.BAD_DATA,
            f"the training data has only {found} for {processes} processes: add data, lower distributed.workers "
            f"× gpusPerWorker{_more_rows(spec)}",
        )
    sizes = divide_batch(training.batch_size, processes, training.max_batch_size_per_device if batching else 1)
    steps_per_epoch = -(-rows // training.batch_size)
    epochs = training.epochs or _DEFAULT_EPOCHS
    steps = training.max_steps or max(1, math.ceil(epochs * steps_per_epoch))
    warmup = training.warmup_steps
    return TrainPlan(
        sizes=sizes,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=round(_DEFAULT_WARMUP_SHARE * steps) if warmup is None else warmup,
        evaluate_every=training.evaluate_every_steps or steps_per_epoch,
        log_every=max(1, steps // _MOST_LOGGED_STEPS),
    )


def _more_rows(spec: FineTuneJobSpec) -> str:
    if not spec.joins_rows:
        return ""
    return ", or " + (
        "lower training.maxSequenceLength" if spec.task.type.row.joins else "set training.packing to false"
    )


def deepspeed_config(
    spec: FineTuneJobSpec, plan: TrainPlan, precision: Precision, universal: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration for ZeRO stages 1 to 3; Trainer replaces the values "auto" according to the model.

    Args:
        spec: The job's spec.
        plan: Batch sizes of the run.
        precision: The resolved precision.
        universal: Load a converted checkpoint.
    """
    stage = spec.distributed.zero.stage
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    sizes = plan.sizes
    return {
        "train_batch_size": sizes.per_step,
        "train_micro_batch_size_per_gpu": sizes.per_device,
        "gradient_accumulation_steps": sizes.accumulation,
        "gradient_clipping": spec.training.max_grad_norm,
        "bf16": {"enabled": precision is Precision.BF16},
        "fp16": {"enabled": precision is Precision.FP16},
        "zero_optimization": zero,
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 2**31,
    }
