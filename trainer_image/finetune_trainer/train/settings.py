"""From the job's spec to the settings of Trainer and DeepSpeed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision, Schedule
from finetune_api.stage import Device, StageConfig
from finetune_trainer.train.batches import BatchSizes, divide_batch

if TYPE_CHECKING:
    from transformers import TrainingArguments

_DEFAULT_EPOCHS = 3.0
_DEFAULT_WARMUP_SHARE = 0.03
_MOST_LOGGED_STEPS = 5000
"""Points of a curve; a longer run logs the mean of several steps, so that its state stays small."""

_SCHEDULER_NAMES = {
    Schedule.COSINE: "cosine",
    Schedule.LINEAR: "linear",
    Schedule.CONSTANT: "constant_with_warmup",
}


@dataclass(frozen=True)
class TrainPlan:
    """The run in numbers, before anything heavy is loaded."""

    sizes: BatchSizes
    steps_per_epoch: int
    steps: int
    """Optimizer steps in all."""
    warmup_steps: int
    evaluate_every: int
    log_every: int


def plan_training(spec: FineTuneJobSpec, rows: int, processes: int) -> TrainPlan:
    """Work out steps and batch sizes for ``rows`` training rows (packed rows, with packing).

    Raises:
        StageFailure: BadData when there are fewer rows than processes.
    """
    training = spec.training
    if rows < processes:
        raise StageFailure(
            Reason.BAD_DATA,
            f"the training data makes {rows} rows for {processes} processes: give more data, lower "
            "distributed.workers × gpusPerWorker, or turn training.packing off",
        )
    sizes = divide_batch(training.batch_size, processes, training.max_batch_size_per_device)
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


def resolve_precision(precision: Precision, device: Device, bf16_supported: bool) -> Precision:
    """The precision to compute in.

    Raises:
        StageFailure: BadConfiguration when the device cannot compute it.
    """
    if precision is Precision.AUTO:
        return Precision.BF16 if device is Device.GPU and bf16_supported else Precision.FP32
    if precision is Precision.FP16 and device is Device.CPU:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, "training.precision FP16 needs a GPU: use Auto, BF16 or FP32 for training on CPU"
        )
    if precision is Precision.BF16 and device is Device.GPU and not bf16_supported:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, "this GPU does not compute training.precision BF16: use Auto, FP16 or FP32"
        )
    return precision


def deepspeed_config(
    spec: FineTuneJobSpec, plan: TrainPlan, precision: Precision, universal: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration for ZeRO stages 1 to 3; what is "auto" Trainer fills in from the model."""
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


def training_arguments(
    config: StageConfig, plan: TrainPlan, precision: Precision, output: Path, universal: bool
) -> TrainingArguments:
    """Trainer's settings. Creating them starts torch.distributed, and for ZeRO-3 makes models load in shards.

    ``universal``: whether the checkpoint to resume from is a universal one.
    """
    from transformers import TrainingArguments

    spec = config.spec
    training = spec.training
    zero = spec.distributed.zero.stage > 0
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.sizes.per_device,
        gradient_accumulation_steps=plan.sizes.accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=_SCHEDULER_NAMES[training.schedule],
        warmup_steps=plan.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        bf16=precision is Precision.BF16,
        fp16=precision is Precision.FP16,
        use_cpu=config.world.device is Device.CPU,
        deepspeed=deepspeed_config(spec, plan, precision, universal) if zero else None,
        ddp_find_unused_parameters=False if config.world.size > 1 and not zero else None,
        activation_checkpointing=training.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if training.activation_checkpointing else None,
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=plan.evaluate_every,
        save_strategy="steps",
        save_steps=training.checkpoint.every_steps,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        log_level="warning",
    )
    if zero:
        import deepspeed

        # Where there is no GPU, it would compile an op for an all-reduce that only its inference does: a minute, and a
        # compiler. What this table has not is not made (``deepspeed/comm/torch.py``).
        deepspeed.ops.__compatible_ops__ = {}
        # On CPU only torch.distributed has been started yet, and ZeRO-3 would load the model for a world of one.
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return arguments
