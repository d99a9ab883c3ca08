"""Tasks: their columns, data formats, metrics and model families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from finetune_api.tables.distillation import DistillationMode
from finetune_api.tables.metrics import Metric
from finetune_api.tables.preferences import PREFERENCES, PreferenceLoss
from finetune_api.tables.table import table
from finetune_api.vocabulary import DataFormat


class TaskType(StrEnum):
    TEXT_CLASSIFICATION = "TextClassification"
    INSTRUCTION_TUNING = "InstructionTuning"
    QUESTION_ANSWERING = "QuestionAnswering"
    SUMMARIZATION = "Summarization"
    TRANSLATION = "Translation"
    PREFERENCE_TUNING = "PreferenceTuning"
    LANGUAGE_MODELING = "LanguageModeling"
    CODE_GENERATION = "CodeGeneration"

    @property
    def row(self) -> TaskRow:
        return TASKS[self]


class ModelFamily(StrEnum):
    ENCODER = "encoder"
    CAUSAL = "causal"
    SEQ2SEQ = "seq2seq"


@dataclass(frozen=True)
class Column:
    """A column of the data of a task."""

    field: str
    """Field of dataset.columns, and default name of the column."""
    meaning: str
    optional: bool = False
    """Whether rows may lack it."""


@dataclass(frozen=True)
class Measures:
    """Metrics of a task with a setting that changes what it predicts."""

    metrics: tuple[Metric, ...]
    default_metrics: tuple[Metric, ...]
    """The first is the score of the job."""


@dataclass(frozen=True)
class TaskRow:
    """One task."""

    columns: tuple[tuple[Column, ...], ...]
    """The supported forms of a row; each is a tuple of columns."""
    formats: tuple[DataFormat, ...]
    metrics: tuple[Metric, ...]
    """All metrics of the task."""
    default_metrics: tuple[Metric, ...]
    """Default metrics; the first is the score of the job."""
    families: tuple[ModelFamily, ...]
    default_length: int
    """Default maximum number of tokens of an example; the limit of the model may reduce it."""
    hub_task: str
    """Name of the task on the Hugging Face Hub."""
    pipelines: Mapping[ModelFamily, str] = field(default_factory=dict)
    """Families whose models the Hub and transformers use for another task: the ``pipeline_tag`` of the card."""
    starting_model: str = ""
    """A small model to begin with, which `finetune init` writes; empty if the user has to name one."""
    settings: Mapping[str, tuple[ModelFamily, ...]] = field(default_factory=dict)
    """Fields of spec.task that are valid for this task, and the families of models that have a use for them."""
    required: tuple[str, ...] = ()
    """Those without which the task is not defined."""
    multi_label: Measures | None = None
    """The metrics with task.multiLabel; None if the task has no such setting."""
    packs: tuple[ModelFamily, ...] = ()
    """Families with which several examples can share a row of a batch (training.packing)."""
    joins: bool = False
    """Whether all examples of a split become one text that is cut into rows of equal length, so that packing has no
    meaning."""
    generates: tuple[ModelFamily, ...] = ()
    """Families with which the evaluation generates text (evaluation.generation)."""
    language_model: bool = True
    """Whether the result is a model of text, with every family but that of encoders; otherwise it has another head."""
    runs_metrics: tuple[Metric, ...] = ()
    """Default metrics if generated programs may be run (evaluation.allowCodeExecution)."""
    other_lengths: Mapping[ModelFamily, int] = field(default_factory=dict)
    """Families whose default maximum number of tokens differs."""
    placeholders: tuple[str, ...] = ()
    """The columns that an instruction has a place for; none if the rows of the task are no questions to a model."""
    not_distilled: Mapping[DistillationMode, str] = field(default_factory=dict)
    """Why a student cannot learn the task from a teacher, as the end of a sentence that says what to do instead."""

    def pipeline_for(self, family: ModelFamily) -> str:
        """The ``pipeline_tag`` of models of ``family``."""
        return self.pipelines.get(family, self.hub_task)

    @property
    def measures(self) -> Measures:
        """The metrics without such a setting."""
        return Measures(self.metrics, self.default_metrics)

    @property
    def column_fields(self) -> tuple[str, ...]:
        """The fields of dataset.columns for all forms, without duplicates."""
        return tuple(dict.fromkeys(column.field for form in self.columns for column in form))

    def length_for(self, family: ModelFamily) -> int:
        """Default maximum number of tokens of an example for models of ``family``."""
        return self.other_lengths.get(family, self.default_length)

    @property
    def lengths_in_words(self) -> str:
        """The default lengths, such as ``384 (1024 for causal, 1024 for seq2seq)``."""
        others = [f"{length} for {family}" for family, length in self.other_lengths.items()]
        return str(self.default_length) + (f" ({', '.join(others)})" if others else "")

    @property
    def columns_in_words(self) -> str:
        return ", or ".join(_in_words(form) for form in self.columns)


def _in_words(form: tuple[Column, ...]) -> str:
    needed, optional = ([column.field for column in form if column.optional is kind] for kind in (False, True))
    return " and ".join(needed) + (f" (optional: {', '.join(optional)})" if optional else "")


_TABULAR = (DataFormat.AUTO, DataFormat.JSONL, DataFormat.CSV, DataFormat.PARQUET)
TEACHER_FORCED = (Metric.LOSS, Metric.TOKEN_ACCURACY)
"""Metrics of the right answers, which need no generated ones."""
_GENERATIVE = (ModelFamily.CAUSAL, ModelFamily.SEQ2SEQ)

TASKS = table(
    TaskType,
    {
        TaskType.TEXT_CLASSIFICATION: TaskRow(
            columns=((Column("text", "the text"), Column("label", "the label")),),
            formats=_TABULAR,
            metrics=(
                Metric.ACCURACY,
                Metric.MACRO_F1,
                Metric.WEIGHTED_F1,
                Metric.MCC,
                Metric.AUROC,
                Metric.ECE,
            ),
            default_metrics=(Metric.ACCURACY, Metric.MACRO_F1),
            multi_label=Measures(
                metrics=(Metric.MICRO_F1, Metric.MACRO_F1, Metric.WEIGHTED_F1, Metric.ACCURACY, Metric.AUROC),
                default_metrics=(Metric.MICRO_F1, Metric.MACRO_F1),
            ),
            families=(ModelFamily.ENCODER, ModelFamily.CAUSAL),
            default_length=512,
            hub_task="text-classification",
            language_model=False,
            starting_model="hf://google-bert/bert-base-uncased",
            settings=dict.fromkeys(
                ("labels", "multi_label", "class_weights"), (ModelFamily.ENCODER, ModelFamily.CAUSAL)
            ),
            placeholders=("text",),
        ),
        TaskType.INSTRUCTION_TUNING: TaskRow(
            columns=(
                (Column("messages", "the list of messages of a conversation"),),
                (Column("prompt", "the message of the user"), Column("completion", "the answer that the model learns")),
            ),
            formats=(*_TABULAR, DataFormat.OPENAI_CHAT),
            metrics=(Metric.LOSS, Metric.TOKEN_ACCURACY, Metric.EXACT_MATCH, Metric.ROUGE_L, Metric.CHRF),
            default_metrics=(Metric.ROUGE_L, Metric.EXACT_MATCH, Metric.LOSS),
            families=(ModelFamily.CAUSAL,),
            default_length=2048,
            hub_task="text-generation",
            starting_model="hf://Qwen/Qwen2.5-0.5B-Instruct",
            settings={"loss": (ModelFamily.CAUSAL,)},
            packs=(ModelFamily.CAUSAL,),
            generates=(ModelFamily.CAUSAL,),
            placeholders=("prompt",),
        ),
        TaskType.QUESTION_ANSWERING: TaskRow(
            columns=(
                (
                    Column("question", "the question"),
                    Column("context", "the text that has the answer"),
                    Column("answers", "the answers, empty where there is none"),
                ),
            ),
            formats=_TABULAR,
            metrics=(Metric.SQUAD_F1, Metric.EXACT_MATCH, Metric.HAS_ANSWER_F1, Metric.NO_ANSWER_F1),
            default_metrics=(Metric.SQUAD_F1, Metric.EXACT_MATCH, Metric.HAS_ANSWER_F1, Metric.NO_ANSWER_F1),
            families=(ModelFamily.ENCODER, *_GENERATIVE),
            default_length=384,
            hub_task="question-answering",
            # That pipeline needs a head for spans.
            pipelines={ModelFamily.CAUSAL: "text-generation", ModelFamily.SEQ2SEQ: "text2text-generation"},
            settings={"window_overlap": (ModelFamily.ENCODER,), "instruction": _GENERATIVE},
            packs=(ModelFamily.CAUSAL,),
            generates=_GENERATIVE,
            other_lengths=dict.fromkeys(_GENERATIVE, 1024),
            placeholders=("question", "context"),
        ),
        TaskType.SUMMARIZATION: TaskRow(
            columns=((Column("text", "the text"), Column("summary", "the summary that the model learns")),),
            formats=_TABULAR,
            metrics=(
                Metric.ROUGE_L,
                Metric.ROUGE_1,
                Metric.ROUGE_2,
                Metric.ROUGE_LSUM,
                Metric.CHRF,
                Metric.EXACT_MATCH,
                *TEACHER_FORCED,
            ),
            default_metrics=(Metric.ROUGE_L, Metric.ROUGE_1, Metric.ROUGE_2, Metric.ROUGE_LSUM),
            families=_GENERATIVE,
            default_length=1024,
            hub_task="summarization",
            pipelines={ModelFamily.CAUSAL: "text-generation"},
            starting_model="hf://google-t5/t5-small",
            settings={"instruction": _GENERATIVE},
            packs=(ModelFamily.CAUSAL,),
            generates=_GENERATIVE,
            placeholders=("text",),
        ),
        TaskType.TRANSLATION: TaskRow(
            columns=(
                (Column("source", "the text"), Column("target", "its translation, which the model learns")),
                (Column("translation", "an object with the text and its translation by language code"),),
            ),
            formats=_TABULAR,
            metrics=(Metric.CHRF, Metric.BLEU, Metric.EXACT_MATCH, *TEACHER_FORCED),
            default_metrics=(Metric.CHRF, Metric.BLEU),
            families=_GENERATIVE,
            default_length=512,
            hub_task="translation",
            pipelines={ModelFamily.CAUSAL: "text-generation"},
            settings=dict.fromkeys(("instruction", "source_language", "target_language"), _GENERATIVE),
            required=("target_language",),
            packs=(ModelFamily.CAUSAL,),
            generates=_GENERATIVE,
            placeholders=("source",),
        ),
        TaskType.PREFERENCE_TUNING: TaskRow(
            columns=(
                (
                    Column("prompt", "the prompt, a text or a list of messages"),
                    Column("chosen", "the better answer, or the conversation that ends with it"),
                    Column("rejected", "the worse answer, or the conversation that ends with it"),
                ),
                (
                    Column("prompt", "the prompt, a text or a list of messages"),
                    Column("completion", "with the loss KTO, the answer"),
                    Column("label", "with the loss KTO, whether the answer is desirable"),
                ),
            ),
            formats=_TABULAR,
            metrics=tuple(dict.fromkeys(metric for row in PREFERENCES.values() for metric in row.metrics)),
            default_metrics=PREFERENCES[PreferenceLoss.DPO].metrics,
            families=(ModelFamily.CAUSAL,),
            default_length=1024,
            hub_task="text-generation",
            starting_model="hf://Qwen/Qwen2.5-0.5B-Instruct",
            not_distilled=dict.fromkeys(
                DistillationMode,
                "whose loss compares the model with its own base model; distil into the model with InstructionTuning, "
                "and start the preference tuning from the result",
            ),
        ),
        TaskType.LANGUAGE_MODELING: TaskRow(
            columns=((Column("text", "the text of a document"),),),
            formats=(*_TABULAR, DataFormat.TEXT),
            metrics=(Metric.PERPLEXITY, Metric.BITS_PER_BYTE, Metric.TOKEN_ACCURACY),
            default_metrics=(Metric.PERPLEXITY, Metric.BITS_PER_BYTE, Metric.TOKEN_ACCURACY),
            families=(ModelFamily.CAUSAL,),
            default_length=1024,
            hub_task="text-generation",
            starting_model="hf://Qwen/Qwen2.5-0.5B",
            joins=True,
            not_distilled={DistillationMode.RESPONSES: "whose rows have no prompts; use mode Logits"},
        ),
        TaskType.CODE_GENERATION: TaskRow(
            columns=(
                (
                    Column("prompt", "the beginning of the program, or what it has to do"),
                    Column("completion", "what follows the prompt, which the model learns"),
                    Column("tests", "Python statements that fail if the program is wrong, or a list of them", True),
                    Column("entry_point", "the function that is passed to check, where tests only define it", True),
                ),
            ),
            formats=_TABULAR,
            metrics=(
                Metric.PASS_AT_1,
                Metric.PASS_AT_5,
                Metric.PASS_AT_10,
                Metric.PASS_AT_100,
                Metric.EXACT_MATCH,
                Metric.PARSES,
                Metric.CHRF,
                *TEACHER_FORCED,
            ),
            default_metrics=(Metric.EXACT_MATCH, Metric.PARSES, Metric.CHRF),
            runs_metrics=(Metric.PASS_AT_1, Metric.EXACT_MATCH, Metric.PARSES),
            families=_GENERATIVE,
            default_length=1024,
            hub_task="text-generation",
            starting_model="hf://Qwen/Qwen2.5-Coder-0.5B",
            settings={"instruction": _GENERATIVE, "language": _GENERATIVE},
            packs=(ModelFamily.CAUSAL,),
            generates=_GENERATIVE,
            placeholders=("prompt",),
        ),
    },
)


def names_of(**wanted: bool) -> str:
    """A comma-separated list of the tasks whose rows have these values, such as ``names_of(packs=True)``."""
    found = [
        task for task, row in TASKS.items() if all(bool(getattr(row, name)) is value for name, value in wanted.items())
    ]
    return ", ".join(found)
