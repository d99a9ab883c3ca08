"""The TrainingArguments of a job."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from finetune_api.spec import Precision, Schedule
from finetune_api.stage import Device, StageConfig
from finetune_trainer.patches.deepspeed import without_cpu_kernels
from finetune_trainer.train.settings import TrainPlan, deepspeed_config

_SCHEDULER_NAMES = {
    Schedule.COSINE: "cosine",
    Schedule.LINEAR: "linear",
    Schedule.CONSTANT: "constant_with_warmup",
}


def training_arguments(
    config: StageConfig,
    plan: TrainPlan,
    precision: Precision,
    output: Path,
    *,
    universal: bool,
    unused_parameters: bool,
) -> TrainingArguments:
    """Create the TrainingArguments.

    This initialises torch.distributed, and with ZeRO-3 it makes ``from_pretrained`` partition models on loading.

    Args:
        config: The configuration of the stage.
        plan: Steps and batch sizes.
        precision: The resolved precision.
        output: Local directory for checkpoints.
        universal: Whether the checkpoint to resume from was converted to a universal checkpoint.
        unused_parameters: Whether training may leave trained parameters without a gradient.
    """
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
        ddp_find_unused_parameters=unused_parameters if config.world.size > 1 and not zero else None,
        activation_checkpointing_kwargs={"use_reentrant": False},
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

        without_cpu_kernels()
        # On the CPU, TrainingArguments initialises only torch.distributed; ZeRO-3 would then assume a world size of 1.
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return arguments
