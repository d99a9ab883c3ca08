"""The tasks: which rows of data each reads, on which models it runs and how its result is measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.metrics import Metric
from finetune_api.tables.table import table
from finetune_api.vocabulary import DataFormat


class TaskType(StrEnum):
    TEXT_CLASSIFICATION = "TextClassification"
    INSTRUCTION_TUNING = "InstructionTuning"

    @property
    def row(self) -> TaskRow:
        return TASKS[self]


class ModelFamily(StrEnum):
    ENCODER = "encoder"
    CAUSAL = "causal"


@dataclass(frozen=True)
class Column:
    """A column of the task's data."""

    field: str
    """Field of dataset.columns, which is also the default name of the column."""
    meaning: str


@dataclass(frozen=True)
class TaskRow:
    """One task."""

    columns: tuple[tuple[Column, ...], ...]
    """Columns that make up a row. Each entry is one form that the data may have."""
    formats: tuple[DataFormat, ...]
    metrics: tuple[Metric, ...]
    """Every metric that the task can be measured by."""
    default_metrics: tuple[Metric, ...]
    """What is measured by default; the first is the job's score."""
    families: tuple[ModelFamily, ...]
    default_length: int
    """Tokens of the longest example, where neither the job nor the model says less."""
    hub_task: str
    """Name of the task on the Hugging Face Hub."""
    settings: tuple[str, ...] = ()
    """Fields of spec.task that belong to this task, camelCase."""
    packs: bool = False
    """Whether several examples can share a row of a batch (training.packing)."""
    generates: bool = False
    """Whether the evaluation generates text (evaluation.generation)."""

    @property
    def column_fields(self) -> tuple[str, ...]:
        """Fields of dataset.columns of all forms, each once."""
        return tuple(dict.fromkeys(column.field for form in self.columns for column in form))

    @property
    def columns_in_words(self) -> str:
        return ", or ".join(" and ".join(column.field for column in form) for form in self.columns)


_TABULAR = (DataFormat.AUTO, DataFormat.JSONL, DataFormat.CSV, DataFormat.PARQUET)

TASKS = table(
    TaskType,
    {
        TaskType.TEXT_CLASSIFICATION: TaskRow(
            columns=((Column("text", "the text"), Column("label", "the label")),),
            formats=_TABULAR,
            metrics=(Metric.ACCURACY, Metric.MACRO_F1, Metric.WEIGHTED_F1),
            default_metrics=(Metric.ACCURACY, Metric.MACRO_F1),
            families=(ModelFamily.ENCODER, ModelFamily.CAUSAL),
            default_length=512,
            hub_task="text-classification",
            settings=("labels",),
        ),
        TaskType.INSTRUCTION_TUNING: TaskRow(
            columns=(
                (Column("messages", "the list of messages of a conversation"),),
                (Column("prompt", "what the user says"), Column("completion", "what the model shall answer")),
            ),
            formats=(*_TABULAR, DataFormat.OPENAI_CHAT),
            metrics=(Metric.LOSS, Metric.TOKEN_ACCURACY, Metric.EXACT_MATCH, Metric.ROUGE_L, Metric.CHRF),
            default_metrics=(Metric.ROUGE_L, Metric.EXACT_MATCH, Metric.LOSS),
            families=(ModelFamily.CAUSAL,),
            default_length=2048,
            hub_task="text-generation",
            packs=True,
            generates=True,
        ),
    },
)


def names_of(**wanted: bool) -> str:
    """Tasks whose row has these values, such as ``names_of(packs=True)``, listed for a sentence."""
    found = [task for task, row in TASKS.items() if all(getattr(row, name) is value for name, value in wanted.items())]
    return ", ".join(found)
