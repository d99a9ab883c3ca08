"""Specs of Summarization and Translation for `tests.unit.api_cases`: a name, changes, and a part of the message."""

from __future__ import annotations

from typing import Any

SUMMARY: dict[str, Any] = {"task": {"type": "Summarization"}}
TRANSLATION: dict[str, Any] = {"task": {"type": "Translation", "targetLanguage": "de"}}
SOURCE_OF = "sourceLanguage is only valid for type Translation"
TARGET_OF = "targetLanguage is only valid for type Translation"
TARGET = "Translation requires targetLanguage"
LANGUAGES_BOTH = "set columns.source and columns.target, or columns.translation, not both"
COLUMNS_OF_SUMMARY = "dataset.columns of Summarization are text and summary"
COLUMNS_OF_TRANSLATION = "dataset.columns of Translation are source and target, or translation"
METRICS_OF_SUMMARY = "evaluation.metrics of Summarization are rouge_l, rouge_1, rouge_2, rouge_lsum, chrf, exact_match"
METRICS_OF_TRANSLATION = "evaluation.metrics of Translation are chrf, bleu, exact_match, loss, token_accuracy"
GATES_OF_SUMMARY = "gates of Summarization can be on rouge_l"
GATES_OF_TRANSLATION = "gates of Translation can be on chrf"
INSTRUCTION_OF = "instruction is only valid for type QuestionAnswering or Summarization or Translation"

PAIR_CASES: tuple[tuple[Any, ...], ...] = (
    ("summary", SUMMARY),
    ("instruction of a summary", {"task": {"type": "Summarization", "instruction": "Say it in a sentence."}}),
    ("instruction of a classification", {"task.instruction": "Classify."}, INSTRUCTION_OF),
    ("language of a summary", {"task": {"type": "Summarization", "sourceLanguage": "en"}}, SOURCE_OF),
    ("target of a summary", {"task": {"type": "Summarization", "targetLanguage": "en"}}, TARGET_OF),
    ("translation", TRANSLATION),
    ("translation to nowhere", {"task": {"type": "Translation", "sourceLanguage": "en"}}, TARGET),
    ("translation column", TRANSLATION | {"dataset.columns.translation": "t"}),
    ("translation and target", TRANSLATION | {"dataset.columns": {"translation": "t", "target": "t"}}, LANGUAGES_BOTH),
    ("label of a summary", SUMMARY | {"dataset.columns.label": "t"}, COLUMNS_OF_SUMMARY),
    ("label of a translation", TRANSLATION | {"dataset.columns.label": "t"}, COLUMNS_OF_TRANSLATION),
    ("beams of a summary", SUMMARY | {"evaluation.generation.beams": 4}),
    ("accuracy of a summary", SUMMARY | {"evaluation.metrics": ["accuracy"]}, METRICS_OF_SUMMARY),
    ("rouge of a translation", TRANSLATION | {"evaluation.metrics": ["rouge_l"]}, METRICS_OF_TRANSLATION),
    ("a gate of a summary", SUMMARY | {"evaluation.gates": [{"metric": "bleu", "minimum": 1}]}, GATES_OF_SUMMARY),
    (
        "a gate of a translation",
        TRANSLATION | {"evaluation.gates": [{"metric": "rouge_l", "minimum": 1}]},
        GATES_OF_TRANSLATION,
    ),
    (
        "a gate beyond 100",
        TRANSLATION | {"evaluation.gates": [{"metric": "chrf", "minimum": 101}]},
        "chrf, bleu range from 0 to 100, and so do minimum and maximum",
    ),
)
