"""The spec of a FineTuneJob as a whole, with the rules across its parts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.spec.inputs import DatasetSpec, ModelSpec, TaskSpec
from finetune_api.spec.outcome import EvaluationSpec, GenerationSpec, OutputSpec, ResilienceSpec
from finetune_api.spec.training import DistributedSpec, LoraSpec, MethodSpec, TrainingSpec
from finetune_api.spec.vocabulary import DEFAULT_METRICS, METRICS_OF_TASK, DataFormat, MethodType, Metric, TaskType


def _metrics_rule(task: TaskType, metrics: tuple[Metric, ...]) -> Rule:
    def holds(spec: FineTuneJobSpec) -> bool:
        return spec.task.type is not task or set(spec.evaluation.metrics or ()) <= set(metrics)

    return Rule(
        cel=f"self.task.type != '{task}' || !has(self.evaluation) || !has(self.evaluation.metrics) || "
        f"self.evaluation.metrics.all(m, m in {[str(metric) for metric in metrics]})",
        message=f"evaluation.metrics of {task} are {', '.join(metrics)}",
        field="evaluation.metrics",
        holds=holds,
    )


def _gates_rule(task: TaskType, metrics: tuple[Metric, ...]) -> Rule:
    def holds(spec: FineTuneJobSpec) -> bool:
        return spec.task.type is not task or {gate.metric for gate in spec.evaluation.gates} <= set(metrics)

    return Rule(
        cel=f"self.task.type != '{task}' || !has(self.evaluation) || !has(self.evaluation.gates) || "
        f"self.evaluation.gates.all(g, g.metric in {[str(metric) for metric in metrics]})",
        message=f"gates of {task} can be on {', '.join(metrics)}",
        field="evaluation.gates",
        holds=holds,
    )


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
        Rule(
            cel="!has(self.training) || !has(self.training.packing) || !self.training.packing || "
            "self.task.type == 'InstructionTuning'",
            message="training.packing is for causal language models; TextClassification groups texts by length instead",
            field="training.packing",
            holds=lambda spec: not spec.training.packing or spec.task.type is TaskType.INSTRUCTION_TUNING,
        ),
        *(_metrics_rule(task, metrics) for task, metrics in METRICS_OF_TASK.items()),
        *(_gates_rule(task, metrics) for task, metrics in METRICS_OF_TASK.items()),
        Rule(
            cel="self.task.type == 'InstructionTuning' || !has(self.evaluation) || !has(self.evaluation.generation) || "
            "!has(self.evaluation.generation.maxNewTokens) || self.evaluation.generation.maxNewTokens == 128",
            message="evaluation.generation is for InstructionTuning; TextClassification generates nothing",
            field="evaluation.generation",
            holds=lambda spec: (
                spec.task.type is TaskType.INSTRUCTION_TUNING or spec.evaluation.generation == GenerationSpec()
            ),
        ),
        Rule(
            cel="!has(self.dataset.columns) || (self.task.type == 'TextClassification' ? "
            "!has(self.dataset.columns.messages) && !has(self.dataset.columns.prompt) && "
            "!has(self.dataset.columns.completion) : "
            "!has(self.dataset.columns.text) && !has(self.dataset.columns.label))",
            message="dataset.columns of TextClassification are text and label, of InstructionTuning messages, or "
            "prompt and completion",
            field="dataset.columns",
            holds=lambda spec: spec.columns_fit_task,
        ),
        Rule(
            cel="!has(self.dataset.format) || self.dataset.format != 'OpenAIChat' || "
            "self.task.type == 'InstructionTuning'",
            message="dataset.format OpenAIChat is for InstructionTuning",
            field="dataset.format",
            holds=lambda spec: (
                spec.dataset.format is not DataFormat.OPENAI_CHAT or spec.task.type is TaskType.INSTRUCTION_TUNING
            ),
        ),
    )

    @property
    def columns_fit_task(self) -> bool:
        columns = self.dataset.columns
        if self.task.type is TaskType.TEXT_CLASSIFICATION:
            return columns.messages is None and columns.prompt is None and columns.completion is None
        return columns.text is None and columns.label is None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured: the metrics asked for, or the task's, and then those that only a gate names."""
        asked = self.evaluation.metrics or DEFAULT_METRICS[self.task.type]
        return tuple(dict.fromkeys((*asked, *(gate.metric for gate in self.evaluation.gates))))

    @property
    def lora(self) -> LoraSpec | None:
        """The adapter's settings; None for full fine-tuning."""
        return (self.method.lora or LoraSpec()) if self.method.type is MethodType.LORA else None

    @property
    def packing(self) -> bool:
        if self.training.packing is None:
            return self.task.type is TaskType.INSTRUCTION_TUNING
        return self.training.packing

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate or (2e-4 if self.method.type is MethodType.LORA else 2e-5)
