"""How the model is changed, and on how much hardware."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.spec.vocabulary import Label, MethodType, Precision, Schedule, Steps


class LoraSpec(ApiModel):
    """Low-rank adapters (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the update.")
    alpha: int = Field(default=32, ge=1, le=4096, description="Scale of the update; it is multiplied by alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout before the adapter.")
    target_modules: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)] = Field(
        default=("all-linear",),
        description="Names of the modules that get an adapter, or all-linear for every linear layer but the head.",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.targetModules) || !('all-linear' in self.targetModules) || self.targetModules.size() == 1",
            message="all-linear stands alone in targetModules",
            field="targetModules",
            holds=lambda lora: "all-linear" not in lora.target_modules or len(lora.target_modules) == 1,
        ),
    )


class MethodSpec(ApiModel):
    """How the model is changed."""

    type: MethodType = Field(default=MethodType.LORA, description="Full trains every weight, LoRA an adapter.")
    lora: LoraSpec | None = Field(default=None, description="Settings of type LoRA.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lora) || !has(self.type) || self.type == 'LoRA'",
            message="lora belongs to type LoRA only",
            field="lora",
            holds=lambda method: method.lora is None or method.type is MethodType.LORA,
        ),
    )


class EarlyStoppingSpec(ApiModel):
    """Stop when validation no longer improves."""

    patience: int = Field(default=3, ge=1, le=100, description="Validations without improvement before the stop.")
    min_delta: float = Field(default=0.0, ge=0, description="A smaller fall of the validation loss is no improvement.")


class CheckpointSpec(ApiModel):
    """When training state is stored, to resume from."""

    every_steps: Steps = Field(default=200, description="Optimizer steps between two checkpoints.")
    keep: int = Field(default=2, ge=1, le=100, description="Newest complete checkpoints that are kept in storage.")


class TrainingSpec(ApiModel):
    """The optimisation."""

    epochs: float | None = Field(
        default=None, gt=0, le=1000, description="Passes over the training data. Default: 3, unless maxSteps is given."
    )
    max_steps: Steps | None = Field(default=None, description="Optimizer steps, instead of epochs.")
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="Peak learning rate. Default: 2e-4 for LoRA, 2e-5 for Full."
    )
    schedule: Schedule = Field(default=Schedule.COSINE, description="Course of the learning rate after warm-up.")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        le=2147483647,
        description="Steps from 0 to the peak learning rate. Default: 3 % of all steps.",
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    batch_size: int = Field(
        default=32,
        ge=1,
        le=65536,
        description="Sequences an optimizer step sees, over all GPUs: with packing, packed rows. Per-device size and "
        "accumulation follow from it.",
    )
    max_batch_size_per_device: int = Field(
        default=8, ge=1, le=1024, description="Most sequences on one device at a time; the rest is accumulated."
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=8,
        le=1048576,
        description="Tokens of a sequence; longer text is cut (classification) or refused as invalid (chat). Default: "
        "the model's limit, at most 512 for classification and 2048 otherwise.",
    )
    packing: bool | None = Field(
        default=None,
        description="InstructionTuning: put several conversations into one row, without attention between them. "
        "Default: true.",
    )
    precision: Precision = Field(
        default=Precision.AUTO, description="Auto is BF16 where the GPU computes it, FP32 otherwise."
    )
    activation_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    seed: int = Field(default=17, ge=0, le=2147483647, description="Seed of splits, order, initialisation and dropout.")
    evaluate_every_steps: Steps | None = Field(
        default=None,
        description="Steps between two measurements on the validation split. Default: one an epoch.",
    )
    early_stopping: EarlyStoppingSpec | None = Field(
        default=None, description="Stop when the validation loss no longer falls, and keep the best weights."
    )
    checkpoint: CheckpointSpec = Field(default=CheckpointSpec(), description="When training state is stored.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            message="give epochs or maxSteps, not both",
            field="maxSteps",
            holds=lambda training: training.epochs is None or training.max_steps is None,
        ),
    )


class ZeroSpec(ApiModel):
    """DeepSpeed ZeRO (Rajbhandari et al. 2019)."""

    stage: int = Field(
        default=2,
        ge=0,
        le=3,
        description="0 copies everything to each GPU; 1 shares out optimizer state, 2 also gradients, 3 also weights.",
    )


class DistributedSpec(ApiModel):
    """On how much hardware the training runs."""

    workers: int = Field(default=1, ge=1, le=1024, description="Training pods.")
    gpus_per_worker: int = Field(
        default=1, ge=0, le=16, description="GPUs, and so processes, of each; 0 trains on CPU with one process."
    )
    zero: ZeroSpec = Field(
        default=ZeroSpec(), description="How optimizer state, gradients and parameters are shared out."
    )

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return self.workers * max(self.gpus_per_worker, 1)
