"""The spec of a FineTuneJob as a whole, with the rules across its parts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.spec.inputs import DatasetSpec, ModelSpec, TaskSpec
from finetune_api.spec.job_rules import job_rules
from finetune_api.spec.outcome import EvaluationSpec, OutputSpec, ResilienceSpec
from finetune_api.spec.training import DistributedSpec, MethodSpec, TrainingSpec
from finetune_api.tables.exports import Export, exports_of
from finetune_api.tables.metrics import Metric


class FineTuneJobSpec(ApiModel):
    """What shall be tuned, on what, how, and where the result goes."""

    model: ModelSpec = Field(description="The pretrained model to start from.")
    task: TaskSpec = Field(description="What the model is to learn.")
    dataset: DatasetSpec = Field(description="The data to train, validate and test on.")
    method: MethodSpec = Field(default=MethodSpec(), description="How the model is changed. Default: LoRA.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="The optimisation.")
    distributed: DistributedSpec = Field(default=DistributedSpec(), description="On how much hardware it runs.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is measured.")
    output: OutputSpec = Field(description="Where the result goes.")
    resilience: ResilienceSpec = Field(default=ResilienceSpec(), description="What happens when something fails.")
    suspend: bool = Field(
        default=False,
        description="Hold the job: what runs writes a checkpoint and ends, and GPUs are free. With false it goes on.",
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
        *job_rules(),
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured: the metrics asked for, or the task's, and then those that only a gate names."""
        asked = self.evaluation.metrics or self.task.type.row.default_metrics
        return tuple(dict.fromkeys((*asked, *(gate.metric for gate in self.evaluation.gates))))

    @property
    def packing(self) -> bool:
        if self.training.packing is None:
            return self.task.type.row.packs
        return self.training.packing

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate or self.method.type.row.learning_rate

    @property
    def max_sequence_length(self) -> int:
        """Tokens of the longest example, before the model's limit."""
        return self.training.max_sequence_length or self.task.type.row.default_length

    @property
    def exports(self) -> tuple[Export, ...]:
        """The forms in which the result is published."""
        return exports_of(self.method.type.row.result)
