"""The words of the API: enums, addresses and what each task can be measured by."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

# Not \s, which is another set of characters here than in the API server.
_PATH = r"[^\x00-\x20\x7f?#]+"

Uri = Annotated[str, StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024)]
OutputUri = Annotated[str, StringConstraints(pattern=f"^(file|s3|gs|az)://{_PATH}$", min_length=6, max_length=320)]
"""Shorter, because addresses below it must fit a stage's termination message."""
ModelUri = Annotated[str, StringConstraints(pattern=f"^(hf|file|s3|gs|az)://{_PATH}$", min_length=6, max_length=1024)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
SecretName = Annotated[str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


Steps = Annotated[int, Field(ge=1, le=2147483647)]
Seconds = Annotated[int, Field(ge=1, le=2147483647)]


class TaskType(StrEnum):
    TEXT_CLASSIFICATION = "TextClassification"
    INSTRUCTION_TUNING = "InstructionTuning"


class DataFormat(StrEnum):
    AUTO = "Auto"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    OPENAI_CHAT = "OpenAIChat"


class Deduplication(StrEnum):
    NONE = "None"
    EXACT = "Exact"


class MethodType(StrEnum):
    FULL = "Full"
    LORA = "LoRA"


class Schedule(StrEnum):
    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class Metric(StrEnum):
    """What evaluation measures on the test split."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"
    WEIGHTED_F1 = "weighted_f1"
    LOSS = "loss"
    TOKEN_ACCURACY = "token_accuracy"
    EXACT_MATCH = "exact_match"
    ROUGE_L = "rouge_l"
    CHRF = "chrf"

    @property
    def higher_is_better(self) -> bool:
        return self is not Metric.LOSS


METRICS_OF_TASK: dict[TaskType, tuple[Metric, ...]] = {
    TaskType.TEXT_CLASSIFICATION: (Metric.ACCURACY, Metric.MACRO_F1, Metric.WEIGHTED_F1),
    TaskType.INSTRUCTION_TUNING: (
        Metric.LOSS,
        Metric.TOKEN_ACCURACY,
        Metric.EXACT_MATCH,
        Metric.ROUGE_L,
        Metric.CHRF,
    ),
}
"""Every metric a task can be measured by; the first that `DEFAULT_METRICS` names is the job's score."""

DEFAULT_METRICS: dict[TaskType, tuple[Metric, ...]] = {
    TaskType.TEXT_CLASSIFICATION: (Metric.ACCURACY, Metric.MACRO_F1),
    TaskType.INSTRUCTION_TUNING: (Metric.ROUGE_L, Metric.EXACT_MATCH, Metric.LOSS),
}
