"""How the model is changed, and on how much hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, create_model

from finetune_api.base import ApiModel, Rule
from finetune_api.spec.rules import method_setting_rules
from finetune_api.tables.methods import DEFAULT_METHOD, METHODS, MethodType, rate_in_words
from finetune_api.tables.tasks import TASKS, names_of
from finetune_api.vocabulary import Precision, Schedule, Steps

_LEARNING_RATES = ", ".join(f"{rate_in_words(row.learning_rate)} for {method}" for method, row in METHODS.items())
_LENGTHS = ", ".join(f"{row.default_length} for {task}" for task, row in TASKS.items())


if TYPE_CHECKING:

    class _MethodFields(ApiModel):
        type: MethodType = DEFAULT_METHOD

else:
    _MethodFields = create_model(
        "_MethodFields",
        __base__=ApiModel,
        type=(
            MethodType,
            Field(
                default=DEFAULT_METHOD,
                description="; ".join(f"{method} {row.summary}" for method, row in METHODS.items()) + ".",
            ),
        ),
        **{
            row.settings.field: (
                row.settings.model | None,
                Field(default=None, description=f"Settings of type {method}."),
            )
            for method, row in METHODS.items()
            if row.settings
        },
    )


class MethodSpec(_MethodFields):
    """How the model is changed."""

    rules: ClassVar[tuple[Rule, ...]] = (*method_setting_rules(),)

    @property
    def settings(self) -> ApiModel | None:
        """The settings of the method, with their defaults; None where it has none."""
        settings = self.type.row.settings
        if settings is None:
            return None
        given: ApiModel | None = getattr(self, settings.field)
        return given or settings.model()


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
        default=None, gt=0, le=1, description=f"Peak learning rate. Default: {_LEARNING_RATES}."
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
        f"the model's limit, at most {_LENGTHS}.",
    )
    packing: bool | None = Field(
        default=None,
        description=f"{names_of(packs=True)}: put several examples into one row, without attention between them. "
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
