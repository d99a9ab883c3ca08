"""Specs that validation accepts or rejects, for the tests of pydantic and of the API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.code_cases import CODE_CASES, OTHER_CASES
from tests.unit.distillation_cases import (
    CHAT_DISTILLATION_CASES,
    CODE_DISTILLATION_CASES,
    DISTILLATION_CASES,
    DOCUMENT_DISTILLATION_CASES,
    PREFERENCE_DISTILLATION_CASES,
    QUESTION_DISTILLATION_CASES,
)
from tests.unit.document_cases import DOCUMENT_CASES
from tests.unit.harness_cases import HARNESS_CASES
from tests.unit.method_cases import CHAT_METHOD_CASES, DOCUMENT_METHOD_CASES, METHOD_CASES
from tests.unit.pair_cases import PAIR_CASES
from tests.unit.preference_cases import PREFERENCE_CASES
from tests.unit.question_cases import QUESTION_CASES
from tests.unit.search_cases import CODE_SEARCH_CASES, QUESTION_SEARCH_CASES, SEARCH_CASES

CLASSIFICATION: dict[str, Any] = {
    "model": {"uri": "hf://owner/name"},
    "task": {"type": "TextClassification"},
    "dataset": {"train": {"uri": "s3://bucket/train.jsonl"}},
    "output": {"uri": "s3://adapters"},
}
CHAT_DATA: dict[str, Any] = {"train": {"uri": "s3://bucket/train.jsonl"}, "format": "OpenAIChat"}
INSTRUCTION: dict[str, Any] = CLASSIFICATION | {"task": {"type": "InstructionTuning"}}
QUESTIONS: dict[str, Any] = CLASSIFICATION | {"task": {"type": "QuestionAnswering"}}
PREFERENCES: dict[str, Any] = CLASSIFICATION | {"task": {"type": "PreferenceTuning"}}
DOCUMENTS: dict[str, Any] = CLASSIFICATION | {"task": {"type": "LanguageModeling"}}
CODE: dict[str, Any] = CLASSIFICATION | {"task": {"type": "CodeGeneration"}}
SPECS = {
    "code": CODE,
    "classification": CLASSIFICATION,
    "instruction": INSTRUCTION,
    "questions": QUESTIONS,
    "preferences": PREFERENCES,
    "documents": DOCUMENTS,
}


@dataclass(frozen=True)
class Case:
    """A change of the spec; ``sentence`` is a part of the rule's message, None if the spec is valid.

    ``server`` is what the API server says instead, where the schema holds the rule and not CEL.
    """

    name: str
    changes: dict[str, Any]
    sentence: str | None = None
    spec: str = "classification"
    server: str | None = None

    def build(self) -> dict[str, Any]:
        spec = copy.deepcopy(SPECS[self.spec])
        for path, value in self.changes.items():
            node = spec
            *parents, last = path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        return spec


def nodes(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema within a schema, with its path: ``.spec.model``, ``.spec.task.labels[]``."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def chat(name: str, changes: dict[str, Any], sentence: str | None = None) -> Case:
    return Case(name, changes, sentence, spec="instruction")


def questions(name: str, changes: dict[str, Any], sentence: str | None = None) -> Case:
    return Case(name, changes, sentence, spec="questions")


def preferences(name: str, changes: dict[str, Any], sentence: str | None = None) -> Case:
    return Case(name, changes, sentence, spec="preferences")


def documents(name: str, changes: dict[str, Any], sentence: str | None = None, server: str | None = None) -> Case:
    return Case(name, changes, sentence, spec="documents", server=server)


def code(name: str, changes: dict[str, Any], sentence: str | None = None) -> Case:
    return Case(name, changes, sentence, spec="code")


LABELS_FOR_CLASSIFICATION = "labels are only valid for type TextClassification"
OVERLAP_OF_QUESTIONS = "windowOverlap is only valid for type QuestionAnswering"
LABELS_TOO_LONG = "labels have more than 16,384 characters in all; leave them out"
LABELS_DIFFER = "labels must be different from each other"
REVISION_FOR_HUB = "revision is only valid for hf:// models"
SECRET_OF_URI = "secretRef requires uri"
URI_OR_FRACTION = "set either uri or fraction"
FRACTIONS = "validation.fraction and test.fraction together may be at most 0.8"
PREFERENCE_OF_TASK = "method.preference is only valid for PreferenceTuning"
COLUMNS_BOTH = "set columns.messages, or columns.prompt and columns.completion, not both"
COLUMNS_OF_FORMAT = "format OpenAIChat reads columns.messages, not columns.prompt and columns.completion"
COLUMNS_OF_CLASSIFICATION = "dataset.columns of TextClassification are text and label"
COLUMNS_OF_CHAT = "dataset.columns of InstructionTuning are messages, or prompt and completion"
CHAT_FORMAT = "dataset.format OpenAIChat is only valid for InstructionTuning"
LORA_FOR_LORA = "lora is only valid for type LoRA"
ALL_LINEAR = "all-linear cannot be combined with other names in targetModules"
EPOCHS_OR_STEPS = "set epochs or maxSteps, not both"
ONE_BOUND = "set exactly one of minimum, maximum and minimumImprovement"
BATCH = "training.batchSize must be a multiple of the processes: distributed.workers × gpusPerWorker"
PACKING = "training.packing is only valid for InstructionTuning, QuestionAnswering, Summarization, Translation"
METRICS_OF_CLASSIFICATION = (
    "evaluation.metrics of TextClassification are accuracy, macro_f1, weighted_f1, mcc, auroc, ece"
)
METRICS_OF_LABEL_LISTS = "evaluation.metrics of TextClassification with multiLabel are micro_f1, macro_f1, weighted_f1"
GATES_OF_LABEL_LISTS = "gates of TextClassification with multiLabel can be on micro_f1, macro_f1, weighted_f1"
LABEL_LISTS_OF = "multiLabel is only valid for type TextClassification"
WEIGHTS_OF = "classWeights are only valid for type TextClassification"
LOSS_OF = "loss is only valid for type InstructionTuning"
WEIGHTS_OR_LISTS = "classWeights cannot be combined with multiLabel"
METRICS_OF_INSTRUCTION = "evaluation.metrics of InstructionTuning are loss, token_accuracy, exact_match, rouge_l, chrf"
GATES_OF_CLASSIFICATION = "gates of TextClassification can be on accuracy, macro_f1, weighted_f1, mcc, auroc, ece"
GATES_OF_INSTRUCTION = "gates of InstructionTuning can be on loss, token_accuracy, exact_match, rouge_l, chrf"
RANGE = "parses range from 0 to 1, and so do minimum and maximum"
DURING_TRAINING = "evaluation.duringTraining is only valid for InstructionTuning, QuestionAnswering, Summarization"
GENERATION = "evaluation.generation is only valid for InstructionTuning, QuestionAnswering, Summarization, Translation"
TEXT_FORMAT = "dataset.format Text is only valid for LanguageModeling"
DOCUMENTS_OF_TASK = "dataset.documents is only valid for LanguageModeling"

RULE_CASES = (
    Case("shortest", {}),
    chat("shortest chat", {}),
    Case("labels", {"task.labels": ["a", "b"]}),
    chat("labels of a chat", {"task.labels": ["a", "b"]}, LABELS_FOR_CLASSIFICATION),
    *(Case(*case) for case in PAIR_CASES),
    Case("label lists", {"task.multiLabel": True, "evaluation.metrics": ["micro_f1", "auroc", "accuracy"]}),
    Case(
        "a gate of label lists", {"task.multiLabel": True, "evaluation.gates": [{"metric": "micro_f1", "minimum": 1}]}
    ),
    Case("no label lists", {"task.multiLabel": False, "evaluation.metrics": ["mcc", "auroc", "ece"]}),
    chat(
        "no label lists of a chat", {"task": {"type": "InstructionTuning", "multiLabel": False, "classWeights": "None"}}
    ),
    chat("label lists of a chat", {"task.multiLabel": True}, LABEL_LISTS_OF),
    Case(
        "calibration of label lists", {"task.multiLabel": True, "evaluation.metrics": ["ece"]}, METRICS_OF_LABEL_LISTS
    ),
    Case(
        "a gate of label lists on another metric",
        {"task.multiLabel": True, "evaluation.gates": [{"metric": "mcc", "minimum": 1}]},
        GATES_OF_LABEL_LISTS,
    ),
    Case("micro F1 of one label", {"evaluation.metrics": ["micro_f1"]}, METRICS_OF_CLASSIFICATION),
    Case("weights", {"task.classWeights": "Balanced"}),
    Case(
        "no weights of label lists",
        {"task": {"type": "TextClassification", "classWeights": "None", "multiLabel": True}},
    ),
    chat("weights of a chat", {"task.classWeights": "Balanced"}, WEIGHTS_OF),
    Case(
        "weights of label lists",
        {"task": {"type": "TextClassification", "classWeights": "Balanced", "multiLabel": True}},
        WEIGHTS_OR_LISTS,
    ),
    chat("all tokens of a chat", {"task": {"type": "InstructionTuning", "loss": "All"}}),
    Case("answers of a classification", {"task.loss": "Assistant"}),
    Case("all tokens of a classification", {"task.loss": "All"}, LOSS_OF),
    preferences("all tokens of preferences", {"task.loss": "All"}, LOSS_OF),
    documents("all tokens of documents", {"task.loss": "All"}, LOSS_OF),
    Case("slices", {"evaluation.slices": ["region", "channel"]}),
    chat("slices of a chat", {"evaluation.slices": ["region"]}),
    Case("a slice twice", {"evaluation.slices": ["a", "a"]}, "slices must be different", server="Duplicate value"),
    Case("a negative correlation", {"evaluation.gates": [{"metric": "mcc", "minimum": -0.5}]}),
    Case(
        "a correlation in percent",
        {"evaluation.gates": [{"metric": "mcc", "minimum": 50}]},
        "mcc range from -1 to 1, and so do minimum and maximum",
    ),
    Case("a gate in percent", {"evaluation.gates": [{"metric": "accuracy", "minimum": 80}]}, RANGE),
    Case("a gate below the range", {"evaluation.gates": [{"metric": "accuracy", "maximum": -1}]}, RANGE),
    Case("a gate that allows less", {"evaluation.gates": [{"metric": "accuracy", "minimumImprovement": -0.5}]}),
    Case("many labels", {"task.labels": [f"{i:016d}" for i in range(1024)]}),
    Case("long labels", {"task.labels": [f"{i:0128d}" for i in range(129)]}, LABELS_TOO_LONG),
    Case("equal labels", {"task.labels": ["a", "b", "a"]}, LABELS_DIFFER, server="Duplicate value"),
    Case("labels in two cases", {"task.labels": ["a", "A"]}),
    *(questions(*case) for case in (*QUESTION_CASES, *QUESTION_DISTILLATION_CASES)),
    Case("window overlap of a classification", {"task.windowOverlap": 64}, OVERLAP_OF_QUESTIONS),
    questions("labels of questions", {"task.labels": ["a", "b"]}, LABELS_FOR_CLASSIFICATION),
    Case("revision of the hub", {"model.revision": "0123abc"}),
    Case("revision of a bucket", {"model": {"uri": "s3://b/m", "revision": "0123abc"}}, REVISION_FOR_HUB),
    Case("default revision of a bucket", {"model": {"uri": "s3://b/m", "revision": "main"}}),
    Case("validation of its own", {"dataset.validation.uri": "s3://b/v.csv"}),
    Case("validation by fraction", {"dataset.validation.fraction": 0.5}),
    Case("validation by both", {"dataset.validation": {"uri": "s3://b/v", "fraction": 0.1}}, URI_OR_FRACTION),
    Case("validation by neither", {"dataset.validation": {}}, URI_OR_FRACTION),
    Case(
        "validation of its own with a Secret", {"dataset.validation": {"uri": "s3://b/v", "secretRef": {"name": "s"}}}
    ),
    Case(
        "fraction with a Secret", {"dataset.validation": {"fraction": 0.1, "secretRef": {"name": "s"}}}, SECRET_OF_URI
    ),
    Case("FP16 on GPUs", {"training.precision": "FP16"}),
    Case("BF16 on CPUs", {"training.precision": "BF16", "distributed.gpusPerWorker": 0}),
    Case("FP16 on CPUs", {"training.precision": "FP16", "distributed.gpusPerWorker": 0}, "FP16 requires a GPU"),
    Case("suspended", {"suspend": True}),
    Case("test by neither", {"dataset.test": {}}, URI_OR_FRACTION),
    Case("fractions of 0.8", {"dataset.validation.fraction": 0.3, "dataset.test.fraction": 0.5}),
    Case("fractions above 0.8", {"dataset.validation.fraction": 0.31, "dataset.test.fraction": 0.5}, FRACTIONS),
    Case("one fraction and the default", {"dataset.test.fraction": 0.5}),
    Case("a fraction and a file", {"dataset.validation.fraction": 0.5, "dataset.test.uri": "s3://b/t"}),
    Case("preference settings of another task", {"method.preference": {"beta": 0.2}}, PREFERENCE_OF_TASK),
    *(preferences(*case) for case in PREFERENCE_CASES),
    *(Case(*case) for case in METHOD_CASES),
    *(chat(*case) for case in CHAT_METHOD_CASES),
    *(Case(*case) for case in SEARCH_CASES),
    *(Case(*case, spec="code") for case in CODE_SEARCH_CASES),
    *(Case(*case, spec="questions") for case in QUESTION_SEARCH_CASES),
    *(Case(*case) for case in DISTILLATION_CASES),
    *(chat(*case) for case in CHAT_DISTILLATION_CASES),
    *(preferences(*case) for case in PREFERENCE_DISTILLATION_CASES),
    *(documents(*case) for case in DOCUMENT_DISTILLATION_CASES),
    chat("messages column", {"dataset.columns.messages": "m"}),
    chat("prompt column", {"dataset.columns.prompt": "p"}),
    chat("messages and prompt", {"dataset.columns": {"messages": "m", "prompt": "p"}}, COLUMNS_BOTH),
    chat("messages and completion", {"dataset.columns": {"messages": "m", "completion": "c"}}, COLUMNS_BOTH),
    chat("messages of JSONL", {"dataset.columns.messages": "m", "dataset.format": "JSONL"}),
    chat("completion of OpenAIChat", {"dataset": CHAT_DATA | {"columns": {"completion": "c"}}}, COLUMNS_OF_FORMAT),
    chat("prompt of OpenAIChat", {"dataset.columns.prompt": "m", "dataset.format": "OpenAIChat"}, COLUMNS_OF_FORMAT),
    chat("messages of OpenAIChat", {"dataset.columns.messages": "m", "dataset.format": "OpenAIChat"}),
    chat("prompt of CSV", {"dataset.columns.prompt": "m", "dataset.format": "CSV"}),
    Case("text and label columns", {"dataset.columns": {"text": "t", "label": "l"}}),
    Case("prompt of a classification", {"dataset.columns.prompt": "p"}, COLUMNS_OF_CLASSIFICATION),
    Case("messages of a classification", {"dataset.columns.messages": "p"}, COLUMNS_OF_CLASSIFICATION),
    chat("text of a chat", {"dataset.columns.text": "t"}, COLUMNS_OF_CHAT),
    chat("label of a chat", {"dataset.columns.label": "t"}, COLUMNS_OF_CHAT),
    chat("chat format", {"dataset.format": "OpenAIChat"}),
    Case("chat format of a classification", {"dataset.format": "OpenAIChat"}, CHAT_FORMAT),
    Case("lora", {"method": {"type": "LoRA", "lora": {"rank": 8}}}),
    Case("lora without a type", {"method": {"lora": {"rank": 8}}}),
    Case("full", {"method": {"type": "Full"}}),
    Case("lora of full", {"method": {"type": "Full", "lora": {"rank": 8}}}, LORA_FOR_LORA),
    Case("all-linear", {"method.lora.targetModules": ["all-linear"]}),
    Case("modules by name", {"method.lora.targetModules": ["query", "value"]}),
    Case("all-linear and a name", {"method.lora.targetModules": ["all-linear", "value"]}, ALL_LINEAR),
    Case("epochs", {"training.epochs": 1}),
    Case("max steps", {"training.maxSteps": 10}),
    Case("epochs and max steps", {"training": {"epochs": 1, "maxSteps": 10}}, EPOCHS_OR_STEPS),
    Case("gates", {"evaluation.gates": [{"metric": "accuracy", "minimum": 0.5}, {"metric": "macro_f1", "maximum": 1}]}),
    Case("a gate without a bound", {"evaluation.gates": [{"metric": "accuracy"}]}, ONE_BOUND),
    Case(
        "a gate with two bounds",
        {"evaluation.gates": [{"metric": "accuracy", "minimum": 0.5, "minimumImprovement": 0.1}]},
        ONE_BOUND,
    ),
    Case("batch over processes", {"training.batchSize": 24, "distributed": {"workers": 3, "gpusPerWorker": 4}}),
    Case("default batch over processes", {"distributed": {"workers": 4, "gpusPerWorker": 8}}),
    Case("batch over CPU workers", {"training.batchSize": 9, "distributed": {"workers": 3, "gpusPerWorker": 0}}),
    Case("batch that does not divide", {"training.batchSize": 25, "distributed.workers": 2}, BATCH),
    Case("default batch that does not divide", {"distributed.workers": 3}, BATCH),
    Case("batch smaller than the processes", {"training.batchSize": 1, "distributed.gpusPerWorker": 2}, BATCH),
    chat("packing", {"training.packing": True}),
    Case("no packing of a classification", {"training.packing": False}),
    Case("packing of a classification", {"training.packing": True}, PACKING),
    Case("metrics", {"evaluation.metrics": ["accuracy", "weighted_f1"]}),
    chat("metrics of a chat", {"evaluation.metrics": ["loss", "chrf"]}),
    Case("chat metric of a classification", {"evaluation.metrics": ["rouge_l"]}, METRICS_OF_CLASSIFICATION),
    chat("classification metric of a chat", {"evaluation.metrics": ["accuracy"]}, METRICS_OF_INSTRUCTION),
    chat("gate of a chat", {"evaluation.gates": [{"metric": "loss", "maximum": 2}]}),
    Case("chat gate", {"evaluation.gates": [{"metric": "chrf", "minimum": 1}]}, GATES_OF_CLASSIFICATION),
    chat("classification gate", {"evaluation.gates": [{"metric": "accuracy", "minimum": 1}]}, GATES_OF_INSTRUCTION),
    chat("generation", {"evaluation.generation.maxNewTokens": 64}),
    Case("default generation of a classification", {"evaluation.generation.maxNewTokens": 128}),
    chat("answers in training", {"evaluation.duringTraining": {}}),
    Case("answers of a classification in training", {"evaluation.duringTraining": {"examples": 9}}, DURING_TRAINING),
    *(documents(*case) for case in (*DOCUMENT_CASES, *DOCUMENT_METHOD_CASES)),
    *(documents(*case) for case in HARNESS_CASES),
    *(code(*case) for case in (*CODE_CASES, *CODE_DISTILLATION_CASES)),
    *(Case(*case) for case in OTHER_CASES),
    chat(
        "samples of a chat",
        {"evaluation.generation.samples": 2},
        "evaluation.generation.samples above 1 are only valid for CodeGeneration",
    ),
    documents("generation of documents", {"evaluation.generation.beams": 2}, GENERATION),
    Case("documents of a classification", {"dataset.documents": "Line"}, DOCUMENTS_OF_TASK),
    Case("text of a classification", {"dataset.format": "Text"}, TEXT_FORMAT),
    Case("generation of a classification", {"evaluation.generation.maxNewTokens": 64}, GENERATION),
)
