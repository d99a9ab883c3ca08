"""Method, hyperparameters and hardware of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, create_model

from finetune_api.base import ApiModel, Rule
from finetune_api.method_settings import PreferenceSpec, VirtualTokensSpec
from finetune_api.spec.rules import method_setting_rules, required_method_setting_rules
from finetune_api.tables.methods import DEFAULT_METHOD, METHODS, MethodType, rates_in_words
from finetune_api.tables.tasks import TASKS, TaskType, names_of
from finetune_api.vocabulary import Precision, Schedule, Steps

_LENGTHS = ", ".join(f"{row.lengths_in_words} for {task}" for task, row in TASKS.items())


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
    """The fine-tuning method."""

    preference: PreferenceSpec | None = Field(default=None, description="Settings of the task PreferenceTuning.")

    rules: ClassVar[tuple[Rule, ...]] = (*method_setting_rules(), *required_method_setting_rules())

    @property
    def settings(self) -> ApiModel | None:
        """The settings of the method, including defaults; None if the method has no settings."""
        settings = self.type.row.settings
        if settings is None:
            return None
        given: ApiModel | None = getattr(self, settings.field)
        return given or settings.model()

    @property
    def virtual_tokens(self) -> int:
        """Learned tokens before each text; 0 for a method without."""
        settings = self.settings
        return settings.virtual_tokens if isinstance(settings, VirtualTokensSpec) else 0


class EarlyStoppingSpec(ApiModel):
    """Stop when the validation loss no longer improves."""

    patience: int = Field(
        default=3, ge=1, le=100, description="Consecutive validations without improvement before training stops."
    )
    min_delta: float = Field(
        default=0.0, ge=0, description="Smallest decrease of the validation loss that counts as an improvement."
    )


class CheckpointSpec(ApiModel):
    """When to save checkpoints of the training state."""

    every_steps: Steps = Field(default=200, description="Optimizer steps between checkpoints.")
    keep: int = Field(default=2, ge=1, le=100, description="Number of newest complete checkpoints to keep in storage.")


class TrainingSpec(ApiModel):
    """Hyperparameters and checkpoints of the training."""

    epochs: float | None = Field(
        default=None, gt=0, le=1000, description="Passes over the training data. Default: 3, unless maxSteps is given."
    )
    max_steps: Steps | None = Field(default=None, description="Number of optimizer steps, instead of epochs.")
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description=f"Peak learning rate. Default: {rates_in_words()}."
    )
    schedule: Schedule = Field(default=Schedule.COSINE, description="Learning rate schedule after warm-up.")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        le=2147483647,
        description="Steps from 0 to the peak learning rate. Default: 3 % of all steps.",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Decoupled weight decay of AdamW; none for biases, norms, factors of IA3 and magnitudes of DoRA.",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Maximum gradient norm; larger gradients are clipped.")
    batch_size: int = Field(
        default=32,
        ge=1,
        le=65536,
        description="Sequences in an optimizer step, over all GPUs; with packing, packed rows. Per-device batch size "
        "and gradient accumulation are derived from it.",
    )
    max_batch_size_per_device: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Maximum number of sequences on a device at a time; gradients of the rest are accumulated.",
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=8,
        le=1048576,
        description="Maximum number of tokens of a sequence. A longer text is truncated, or read in windows by an "
        "encoder that answers questions; a longer conversation or answer is an invalid row. "
        f"{names_of(joins=True)} joins its documents and cuts them into rows of nearly this length. Default: the "
        f"limit of the model, at most {_LENGTHS}.",
    )
    packing: bool | None = Field(
        default=None,
        description=f"{names_of(packs=True)}: put several examples into one row, without attention across examples. "
        "Default: true, unless the model cannot keep the examples of a row apart (see models.md).",
    )
    precision: Precision = Field(
        default=Precision.AUTO, description="Auto is BF16 if the GPU supports it, otherwise FP32."
    )
    activation_checkpointing: bool | None = Field(
        default=None,
        description="Recompute activations in the backward pass: uses less memory and is about a third slower. "
        "Default: on a GPU, if a step with the longest rows does not fit into its memory otherwise, which is tried "
        f"before the first step; false on CPUs, with ZeRO stage 3 and for {TaskType.PREFERENCE_TUNING}.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the layers of the model with torch.compile: minutes before the first step, "
        "then faster steps. Needs a compiler in the trainer image (see install.md).",
    )
    seed: int = Field(
        default=17, ge=0, le=2147483647, description="Random seed of splits, data order, initialisation and dropout."
    )
    evaluate_every_steps: Steps | None = Field(
        default=None,
        description="Optimizer steps between validations. Default: one validation per epoch.",
    )
    early_stopping: EarlyStoppingSpec | None = Field(
        default=None, description="Stop when the validation loss no longer decreases, and keep the best weights."
    )
    checkpoint: CheckpointSpec = Field(default=CheckpointSpec(), description="When to save checkpoints.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            message="set epochs or maxSteps, not both",
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
        description="0 replicates everything; 1 partitions the optimizer state, 2 also gradients, 3 also weights.",
    )


class DistributedSpec(ApiModel):
    """The hardware of the training."""

    workers: int = Field(default=1, ge=1, le=1024, description="Number of training pods.")
    gpus_per_worker: int = Field(
        default=1,
        ge=0,
        le=16,
        description="GPUs of each pod, with one process per GPU; 0 trains on the CPU with one process. With "
        "model.endpoint, no pod gets a GPU.",
    )
    zero: ZeroSpec = Field(
        default=ZeroSpec(), description="How optimizer state, gradients and weights are partitioned."
    )

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return self.workers * max(self.gpus_per_worker, 1)
