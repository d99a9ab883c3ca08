"""Validation rules of CodeGeneration that concern several parts of the spec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Found, Rule
from finetune_api.spec.rules import listed
from finetune_api.tables.code import CodeLanguage
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import TASKS, TaskType

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec

_EVALUATION = "has(self.evaluation)"
_ALLOWED = f"{_EVALUATION} && has(self.evaluation.allowCodeExecution) && self.evaluation.allowCodeExecution"
_SAMPLES = (
    f"({_EVALUATION} && has(self.evaluation.generation) && has(self.evaluation.generation.samples) ? "
    "self.evaluation.generation.samples : 1)"
)
_LANGUAGE = f"(has(self.task.language) ? self.task.language : '{CodeLanguage.PYTHON}')"
_RUNNING = [language for language in CodeLanguage if language.row.runs]
_UNPARSED = [language for language in CodeLanguage if not language.row.parses]


def code_rules() -> Iterator[Rule]:
    """Rules about programs that are run or parsed."""
    yield _allowed_rule()
    yield _samples_task_rule()
    yield _tests_rule()
    for metric in (metric for metric in Metric if metric.row.passes_of):
        yield _executed_rule(metric)
        if metric.row.passes_of > 1:
            yield _enough_rule(metric)
    yield _parsed_rule()


def _allowed_rule() -> Rule:
    tasks = [task for task, row in TASKS.items() if row.runs_metrics]
    return Rule(
        cel=f"!({_ALLOWED}) || self.task.type in {listed(tasks)} && {_LANGUAGE} in {listed(_RUNNING)}",
        message=f"evaluation.allowCodeExecution is only valid for {' and '.join(tasks)} in {' or '.join(_RUNNING)}: "
        "other jobs run no programs",
        field="evaluation.allowCodeExecution",
        holds=lambda spec: (
            not spec.evaluation.allow_code_execution or (spec.task.type in tasks and spec.task.language in _RUNNING)
        ),
    )


def _samples_task_rule() -> Rule:
    tasks = [task for task, row in TASKS.items() if row.runs_metrics]
    return Rule(
        cel=f"self.task.type in {listed(tasks)} || {_SAMPLES} == 1",
        message=f"evaluation.generation.samples above 1 are only valid for {' and '.join(tasks)}",
        field="evaluation.generation.samples",
        # The rule about generation refuses them for tasks that generate nothing.
        holds=lambda spec: (
            not spec.task.type.row.generates or spec.task.type in tasks or spec.evaluation.generation.samples == 1
        ),
    )


def _tests_rule() -> Rule:
    columns = ("tests", "entry_point")
    return Rule(
        cel=f"self.task.type != '{TaskType.CODE_GENERATION}' || {_LANGUAGE} in {listed(_RUNNING)} || "
        "!has(self.dataset.columns) || !has(self.dataset.columns.tests) && !has(self.dataset.columns.entryPoint)",
        message=f"dataset.columns.tests and entryPoint are only valid for task.language {' or '.join(_RUNNING)}, in "
        "which tests can be run",
        field="dataset.columns",
        holds=lambda spec: (
            spec.task.type is not TaskType.CODE_GENERATION
            or spec.task.language in _RUNNING
            or not any(spec.dataset.columns.given(name) for name in columns)
        ),
    )


def _executed_rule(metric: Metric) -> Rule:
    return Rule(
        cel=f"!({_named(metric)}) || {_ALLOWED}",
        message=f"{metric} runs generated programs: set evaluation.allowCodeExecution to true, or remove {metric}",
        field="evaluation.allowCodeExecution",
        holds=lambda spec: not _names(spec, [metric]) or spec.evaluation.allow_code_execution,
    )


def _enough_rule(metric: Metric) -> Rule:
    least = metric.row.passes_of
    return Rule(
        cel=f"!({_named(metric)}) || {_SAMPLES} >= {least}",
        message=f"{metric} needs evaluation.generation.samples of at least {least}",
        field="evaluation.generation.samples",
        holds=lambda spec: not _names(spec, [metric]) or spec.evaluation.generation.samples >= least,
        found=Found("self.evaluation.generation.samples", lambda spec: spec.evaluation.generation.samples),
    )


def _parsed_rule() -> Rule:
    metric = Metric.PARSES
    return Rule(
        cel=f"!({_named(metric)}) || !({_LANGUAGE} in {listed(_UNPARSED)})",
        message=f"{metric} needs a programming language that can be parsed: name it in task.language, or remove "
        f"{metric}",
        field="task.language",
        holds=lambda spec: not _names(spec, [metric]) or spec.task.language not in _UNPARSED,
    )


def _named(metric: Metric) -> str:
    """Whether the spec names a metric, in CEL."""
    return (
        f"{_EVALUATION} && (has(self.evaluation.metrics) && '{metric}' in self.evaluation.metrics || "
        f"has(self.evaluation.gates) && self.evaluation.gates.exists(g, g.metric == '{metric}'))"
    )


def _names(spec: FineTuneJobSpec, metrics: Iterable[Metric]) -> bool:
    named = {*(spec.evaluation.metrics or ()), *(gate.metric for gate in spec.evaluation.gates)}
    return not named.isdisjoint(metrics)
