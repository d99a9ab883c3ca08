"""Fine-tuning methods: their settings, defaults and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from finetune_api.base import ApiModel
from finetune_api.method_settings import (
    Ia3Spec,
    LoraSpec,
    PrefixTuningSpec,
    PromptSearchSpec,
    PromptTuningSpec,
    PTuningSpec,
    VirtualTokensSpec,
)
from finetune_api.tables.table import table
from finetune_api.tables.tasks import ModelFamily, TaskType


class MethodType(StrEnum):
    FULL = "Full"
    LORA = "LoRA"
    IA3 = "IA3"
    PROMPT_TUNING = "PromptTuning"
    PREFIX_TUNING = "PrefixTuning"
    P_TUNING = "PTuning"
    PROMPT_SEARCH = "PromptSearch"

    @property
    def row(self) -> MethodRow:
        return METHODS[self]


class Result(StrEnum):
    """What a method produces."""

    ADAPTER = "adapter"
    MODEL = "model"
    PROMPT = "prompt"


DEFAULT_METHOD = MethodType.LORA


class Quantization(StrEnum):
    """How the weights of the base model are stored during training."""

    NONE = "None"
    NF4 = "NF4"
    INT8 = "Int8"


@dataclass(frozen=True)
class Settings:
    """The settings of a method in the spec."""

    field: str
    """Name of the field in spec.method."""
    model: type[ApiModel]
    required: bool = False
    """Whether the method has no meaning without them."""
    suggested: Mapping[str, Any] | None = None
    """Values of ``model`` for a manifest that has none, where they are required."""


@dataclass(frozen=True)
class MethodRow:
    """One method."""

    summary: str
    """Predicate for the reference, such as ``trains every weight``."""
    result: Result
    learning_rate: float
    """Default peak learning rate; 0 for a method that trains nothing."""
    task_learning_rates: Mapping[TaskType, float] = field(default_factory=dict)
    """Default peak learning rate of tasks that need another one."""
    settings: Settings | None = None
    refused: Mapping[TaskType, str] = field(default_factory=dict)
    """Why the method is not for a task, as the end of a sentence."""
    refused_families: Mapping[TaskType, Mapping[ModelFamily, str]] = field(default_factory=dict)
    """Why the method is not for a task on models of a family, likewise."""
    further_families: Mapping[TaskType, tuple[ModelFamily, ...]] = field(default_factory=dict)
    """Families of models that the method is for in a task, besides those of the task."""
    never_quantized: str = ""
    """Why the method needs the exact base model, as the end of a sentence; empty if it does not."""
    never_packed: str = ""
    """Why examples cannot share a row, likewise."""
    never_partitioned: str = ""
    """Why ZeRO stage 3 is impossible, likewise."""
    never_recomputed: str = ""
    """Why training.activationCheckpointing is impossible, likewise."""
    accuracies: Mapping[Quantization, float] = field(default_factory=dict)
    """Measured accuracy of the tuned model on the test split of examples/quickstart.yaml, by how the base model was
    stored; `finetune advise` orders methods by it."""
    never_continued: str = ""
    """Why training cannot continue from its adapter, likewise."""
    never_distilled: str = ""
    """Why the method is not for a student, as the end of a sentence; empty if it is."""

    @property
    def tasks(self) -> tuple[TaskType, ...]:
        """The tasks that the method is for."""
        return tuple(task for task in TaskType if task not in self.refused)

    def families_for(self, task: TaskType) -> tuple[ModelFamily, ...]:
        """The families of models that the method is for in ``task``; none if it is not for the task."""
        refused = self.refused_families.get(task, {})
        return tuple(family for family in self.known_families(task) if task in self.tasks and family not in refused)

    def known_families(self, task: TaskType) -> tuple[ModelFamily, ...]:
        """The families of models that a model can be taken for in ``task``, also those that the method is not for."""
        return (*task.row.families, *self.further_families.get(task, ()))

    @property
    def trains(self) -> bool:
        """Whether the method changes weights."""
        return self.result is not Result.PROMPT

    @property
    def virtual(self) -> bool:
        """Whether the method trains virtual tokens."""
        return self.settings is not None and issubclass(self.settings.model, VirtualTokensSpec)

    @property
    def quantizations(self) -> tuple[Quantization, ...]:
        """How the base model can be stored."""
        return (Quantization.NONE,) if self.never_quantized else tuple(Quantization)

    def learning_rate_for(self, task: TaskType) -> float:
        """Default peak learning rate of this method for ``task``."""
        return self.task_learning_rates.get(task, self.learning_rate)


_HIDDEN_PADDING = {
    TaskType.TEXT_CLASSIFICATION: {
        ModelFamily.CAUSAL: "which reads the class at the last token: PEFT hands it embeddings, in which it does not "
        "see the padding, so that the class of a text would depend on the longest one beside it"
    }
}


_TOO_SMALL = "which trains too little of the student to bring it closer to a teacher; use LoRA or Full"


def _virtual(
    summary: str,
    learning_rate: float,
    others: Mapping[TaskType, float],
    settings: Settings,
    *,
    accuracy: float,
    refused_families: Mapping[TaskType, Mapping[ModelFamily, str]] | None = None,
    never_recomputed: str = "",
    never_continued: str = "",
) -> MethodRow:
    """The row of a method that trains virtual tokens; ``others`` are the learning rates of some tasks."""
    return MethodRow(
        summary=summary,
        result=Result.ADAPTER,
        learning_rate=learning_rate,
        task_learning_rates=others,
        settings=settings,
        refused={
            TaskType.LANGUAGE_MODELING: "whose rows hold parts of several documents, and only the first of them would "
            "stand behind the virtual tokens"
        },
        refused_families=refused_families or {},
        never_packed="because only the first example of a row would stand behind the virtual tokens",
        never_partitioned="because PEFT computes the virtual tokens that it saves in one process, which has only a "
        "part of the weights; use a stage from 0 to 2",
        never_recomputed=never_recomputed,
        accuracies={Quantization.NONE: accuracy},
        never_continued=never_continued,
        never_distilled=_TOO_SMALL,
    )


METHODS = table(
    MethodType,
    {
        MethodType.FULL: MethodRow(
            summary="trains every weight",
            result=Result.MODEL,
            learning_rate=2e-5,
            task_learning_rates={TaskType.PREFERENCE_TUNING: 2e-6},
            never_quantized="which trains the weights of the base model: rounded weights cannot be trained",
            accuracies={Quantization.NONE: 0.712},
        ),
        MethodType.LORA: MethodRow(
            summary="trains an adapter",
            result=Result.ADAPTER,
            learning_rate=2e-4,
            # A new head has to be learned as well (Hu et al. 2021, appendix D: 4e-4 to 5e-4 on GLUE).
            task_learning_rates={
                TaskType.TEXT_CLASSIFICATION: 5e-4,
                TaskType.QUESTION_ANSWERING: 5e-4,
                TaskType.PREFERENCE_TUNING: 5e-5,
            },
            settings=Settings("lora", LoraSpec),
            accuracies={Quantization.NONE: 0.710, Quantization.NF4: 0.707},
        ),
        MethodType.IA3: MethodRow(
            summary="trains factors of activations, a hundredth of the parameters of LoRA",
            result=Result.ADAPTER,
            # Liu et al. 2022, section 3.3.
            learning_rate=3e-3,
            task_learning_rates={TaskType.PREFERENCE_TUNING: 5e-4},
            never_quantized="whose layers in PEFT compute in FP32 on such a model, and so fit no other precision",
            never_distilled=_TOO_SMALL,
            settings=Settings("ia3", Ia3Spec),
            accuracies={Quantization.NONE: 0.650},
        ),
        MethodType.PROMPT_TUNING: _virtual(
            "trains the embeddings of virtual tokens before each text",
            3e-2,
            # With a new head, 3e-2 is worse (MiniLM, 12 classes: 0.58 instead of 0.62).
            {TaskType.TEXT_CLASSIFICATION: 1e-2, TaskType.PREFERENCE_TUNING: 3e-3},
            Settings("prompt_tuning", PromptTuningSpec),
            accuracy=0.618,
            refused_families=_HIDDEN_PADDING,
        ),
        MethodType.PREFIX_TUNING: _virtual(
            "trains keys and values of virtual tokens before each text, in every layer",
            1e-2,
            {TaskType.PREFERENCE_TUNING: 1e-3},
            Settings("prefix_tuning", PrefixTuningSpec),
            accuracy=0.640,
            never_recomputed="which would add the keys and values of the prefix again where it recomputes activations",
        ),
        MethodType.P_TUNING: _virtual(
            "trains a small network that computes the embeddings of virtual tokens before each text",
            3e-3,
            {TaskType.PREFERENCE_TUNING: 3e-4},
            Settings("p_tuning", PTuningSpec),
            accuracy=0.583,
            refused_families=_HIDDEN_PADDING,
            never_continued="which publishes the embeddings that its network computes, and not the network that it "
            "trains: train from the base model",
        ),
        MethodType.PROMPT_SEARCH: MethodRow(
            summary="trains nothing, and searches the best instruction and examples for the prompt",
            result=Result.PROMPT,
            learning_rate=0,
            settings=Settings("prompt_search", PromptSearchSpec, required=True, suggested={"propose": 4}),
            refused={
                TaskType.PREFERENCE_TUNING: "whose answers are compared and not generated",
                TaskType.LANGUAGE_MODELING: "whose documents answer no prompt",
            },
            refused_families={
                task: {ModelFamily.ENCODER: "which follows no instruction"}
                for task in (TaskType.TEXT_CLASSIFICATION, TaskType.QUESTION_ANSWERING)
            },
            # A model that writes texts ranks the labels by their likelihood, and needs no head.
            further_families={TaskType.TEXT_CLASSIFICATION: (ModelFamily.SEQ2SEQ,)},
            never_distilled="which trains nothing",
            never_packed="which trains nothing",
            never_partitioned="which runs in one process",
            never_recomputed="which trains nothing",
        ),
    },
)


def rates_in_words() -> str:
    """The default learning rates, such as ``2e-5 for Full, 2e-4 for LoRA (5e-4 for TextClassification)``."""
    rates = []
    for method, row in METHODS.items():
        if not row.trains:
            continue
        others = ", ".join(f"{rate_in_words(rate)} for {task}" for task, rate in row.task_learning_rates.items())
        rates.append(f"{rate_in_words(row.learning_rate)} for {method}" + (f" ({others})" if others else ""))
    return ", ".join(rates)


def rate_in_words(rate: float) -> str:
    """A learning rate in short form, such as ``2e-5``."""
    return f"{rate:.0e}".replace("e-0", "e-")
