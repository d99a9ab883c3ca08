"""Specs of CodeGeneration for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

ALLOWED = {"evaluation.allowCodeExecution": True}
EXECUTION_OF = "evaluation.allowCodeExecution is only valid for CodeGeneration in Python"
TESTS_OF = "dataset.columns.tests and entryPoint are only valid for task.language Python"
LANGUAGE_OF = "language is only valid for type CodeGeneration"


def _runs(metric: str) -> str:
    return f"{metric} runs generated programs: set evaluation.allowCodeExecution to true, or remove {metric}"


def _needs(least: int) -> str:
    return f"pass_at_{least} needs evaluation.generation.samples of at least {least}"


CODE_CASES: tuple[tuple[Any, ...], ...] = (
    ("shortest code", {}),
    ("columns of code", {"dataset.columns": {"completion": "canonical_solution", "tests": "test", "entryPoint": "e"}}),
    (
        "text of code",
        {"dataset.columns.text": "t"},
        "dataset.columns of CodeGeneration are prompt and completion (optional: tests, entry_point)",
    ),
    ("instruction of code", {"task.instruction": "Write code."}),
    ("language of code", {"task.language": "Cpp", "evaluation.metrics": ["parses", "chrf", "loss"]}),
    (
        "metric of another task",
        {"evaluation.metrics": ["rouge_l"]},
        "evaluation.metrics of CodeGeneration are pass_at_1",
    ),
    (
        "gate of another task",
        {"evaluation.gates": [{"metric": "bleu", "minimum": 1}]},
        "gates of CodeGeneration can be",
    ),
    ("code that runs", ALLOWED),
    ("code that does not run", {"evaluation.metrics": ["pass_at_1"]}, _runs("pass_at_1")),
    ("gate that does not run", {"evaluation.gates": [{"metric": "pass_at_1", "minimum": 0.1}]}, _runs("pass_at_1")),
    *(
        (f"pass_at_{k} that does not run", {"evaluation.metrics": [f"pass_at_{k}"]}, _runs(f"pass_at_{k}"))
        for k in (5, 10, 100)
    ),
    ("Go that runs", ALLOWED | {"task.language": "Go"}, EXECUTION_OF),
    ("tests in Go", {"task.language": "Go", "dataset.columns.tests": "t"}, TESTS_OF),
    ("entry point in Go", {"task.language": "Go", "dataset.columns.entryPoint": "t"}, TESTS_OF),
    ("other language", {"task.language": "Other"}),
    (
        "other language that is parsed",
        {"task.language": "Other", "evaluation.metrics": ["parses"]},
        "parses needs a programming language that can be parsed",
    ),
    *(
        (f"too few samples for {k}", ALLOWED | {"evaluation.metrics": [f"pass_at_{k}"]}, _needs(k))
        for k in (5, 10, 100)
    ),
    (
        "a gate with too few samples",
        ALLOWED
        | {
            "evaluation.gates": [{"metric": "pass_at_5", "minimum": 0.1}],
            "evaluation.metrics": ["exact_match"],
            "evaluation.generation.samples": 3,
        },
        f"{_needs(5)}, not 3",
    ),
    (
        "enough samples",
        ALLOWED | {"evaluation.metrics": ["pass_at_5"], "evaluation.generation": {"samples": 5, "temperature": 0.2}},
    ),
    ("temperature of one", {"evaluation.generation.temperature": 0.8}, "temperature requires samples above 1"),
    (
        "samples and beams",
        {"evaluation.generation": {"samples": 2, "beams": 2}},
        "samples cannot be combined with beams",
    ),
    ("packed code", {"training.packing": True}),
)
"""Of the spec ``code``."""

OTHER_CASES: tuple[tuple[Any, ...], ...] = (
    ("execution of a classification", ALLOWED, EXECUTION_OF),
    ("language of a classification", {"task.language": "Go"}, LANGUAGE_OF),
    ("Python of a classification", {"task.language": "Python"}),
)
"""Of other tasks."""
