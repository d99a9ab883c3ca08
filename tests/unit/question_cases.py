"""Specs of QuestionAnswering for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

COLUMNS_OF_QUESTIONS = "dataset.columns of QuestionAnswering are question and context and answers"
METRICS_OF_QUESTIONS = "evaluation.metrics of QuestionAnswering are squad_f1, exact_match, has_answer_f1, no_answer_f1"
GATES_OF_QUESTIONS = "gates of QuestionAnswering can be on squad_f1, exact_match, has_answer_f1, no_answer_f1"

QUESTION_CASES: tuple[tuple[Any, ...], ...] = (
    ("shortest questions", {}),
    ("window overlap", {"task.windowOverlap": 64, "dataset.columns.answers": "a"}),
    ("label of questions", {"dataset.columns.label": "t"}, COLUMNS_OF_QUESTIONS),
    ("metric of another task", {"evaluation.metrics": ["squad_f1", "rouge_l"]}, METRICS_OF_QUESTIONS),
    ("gate of another task", {"evaluation.gates": [{"metric": "loss", "maximum": 1}]}, GATES_OF_QUESTIONS),
    ("generation of questions", {"evaluation.generation": {"maxNewTokens": 9}}),
    ("instruction of questions", {"task.instruction": "Answer."}),
)
