"""The spec of a FineTuneJob, with the validation rules across its parts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.method_settings import PreferenceSpec
from finetune_api.spec.dataset import DatasetSpec
from finetune_api.spec.distillation import DistillationSpec
from finetune_api.spec.inputs import ModelSpec, TaskSpec
from finetune_api.spec.job_rules import job_rules
from finetune_api.spec.outcome import EvaluationSpec, OutputSpec, ResilienceSpec
from finetune_api.spec.training import DistributedSpec, MethodSpec, TrainingSpec
from finetune_api.tables.exports import Export, exports_of
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import TEACHER_FORCED, TaskType
from finetune_api.vocabulary import Precision


class FineTuneJobSpec(ApiModel):
    """Desired state of a fine-tuning job: model, data, method, hardware and output."""

    model: ModelSpec = Field(description="The pretrained model to start from.")
    task: TaskSpec = Field(description="The task that the model learns.")
    dataset: DatasetSpec = Field(description="Training, validation and test data.")
    method: MethodSpec = Field(default=MethodSpec(), description="The fine-tuning method. Default: LoRA.")
    distillation: DistillationSpec | None = Field(
        default=None, description="With Full or LoRA: a teacher that the model learns from, besides the data."
    )
    training: TrainingSpec = Field(default=TrainingSpec(), description="Hyperparameters and checkpoints.")
    distributed: DistributedSpec = Field(default=DistributedSpec(), description="Workers, GPUs and ZeRO stage.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="Metrics and gates.")
    output: OutputSpec = Field(description="Address of the results.")
    resilience: ResilienceSpec = Field(default=ResilienceSpec(), description="Restarts and timeouts.")
    suspend: bool = Field(
        default=False,
        description="Suspend the job: the running stage saves a checkpoint and ends, which frees the GPUs. Set it to "
        "false to resume.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.training) && has(self.training.batchSize) ? self.training.batchSize : 32) % "
            "((has(self.distributed) && has(self.distributed.workers) && self.distributed.workers > 1 ? "
            "self.distributed.workers : 1) * "
            "(has(self.distributed) && has(self.distributed.gpusPerWorker) && self.distributed.gpusPerWorker > 1 ? "
            "self.distributed.gpusPerWorker : 1)) == 0",
            message="training.batchSize must be a multiple of the processes: distributed.workers × gpusPerWorker",
            field="training.batchSize",
            holds=lambda spec: spec.training.batch_size % spec.distributed.world_size == 0,
        ),
        Rule(
            cel="!has(self.training) || !has(self.training.precision) || "
            f"self.training.precision != '{Precision.FP16}' "
            "|| !has(self.distributed) || !has(self.distributed.gpusPerWorker) || self.distributed.gpusPerWorker > 0",
            message="training.precision FP16 requires a GPU: use Auto, BF16 or FP32 with distributed.gpusPerWorker 0",
            field="training.precision",
            holds=lambda spec: spec.training.precision is not Precision.FP16 or spec.distributed.gpus_per_worker > 0,
        ),
        *job_rules(),
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics to measure: evaluation.metrics or the defaults of the task, then those that only gates use."""
        asked = self.evaluation.metrics or self.default_metrics
        return tuple(dict.fromkeys((*asked, *self.evaluation.gated)))

    @property
    def default_metrics(self) -> tuple[Metric, ...]:
        """The metrics that are measured if the job names none; the first is the score."""
        if self.preference:
            return self.preference.loss.row.metrics
        if self.evaluation.allow_code_execution and (metrics := self.task.type.row.runs_metrics):
            return self.task.measurable(metrics)
        if not self.method.type.row.trains:
            return tuple(metric for metric in self.task.default_metrics if metric not in TEACHER_FORCED)
        return self.task.default_metrics

    @property
    def preference(self) -> PreferenceSpec | None:
        """The settings of PreferenceTuning, including defaults; None for other tasks."""
        if self.task.type is not TaskType.PREFERENCE_TUNING:
            return None
        return self.method.preference or PreferenceSpec()

    @property
    def packing(self) -> bool:
        if self.training.packing is None:
            return bool(self.task.type.row.packs) and not self.method.type.row.never_packed
        return self.training.packing

    @property
    def joins_rows(self) -> bool:
        """Whether rows of the data are joined to the rows of training."""
        return self.packing or self.task.type.row.joins

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate or self.method.type.row.learning_rate_for(self.task.type)

    @property
    def exports(self) -> tuple[Export, ...]:
        """The exports that publish writes."""
        return exports_of(self.method.type.row.result)
