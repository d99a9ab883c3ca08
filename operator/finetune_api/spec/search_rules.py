"""Validation rules of the method PromptSearch, which trains nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Found, Rule
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec.rules import listed
from finetune_api.tables.methods import MethodType
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import TASKS, TEACHER_FORCED, TaskType
from finetune_api.vocabulary import BaselineChoice, ClassWeights, LearnedTokens

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec

_METHOD = MethodType.PROMPT_SEARCH
_OTHER = f"!has(self.method) || !has(self.method.type) || self.method.type != '{_METHOD}'"
_CANDIDATES = "self.method.promptSearch.candidates"
_WITHOUT_PROBABILITIES = (Metric.AUROC, Metric.ECE, Metric.MCC)
PLACEHOLDER = r"[{][A-Za-z_][A-Za-z0-9_]*[}]"
"""What counts as a place for a text, in CEL and Python."""


def search_rules() -> Iterator[Rule]:
    """What the instructions must have, and the settings that have no meaning without training."""
    for task in TASKS:
        if task.row.placeholders and task not in _METHOD.row.refused:
            yield _candidates_rule(task)
    for field, unset, why, is_unset in (
        (
            "distributed.workers",
            "!has(self.distributed) || !has(self.distributed.workers) || self.distributed.workers == 1",
            "which runs in one process: remove it",
            lambda spec: spec.distributed.workers == 1,
        ),
        (
            "distributed.gpusPerWorker",
            "!has(self.distributed) || !has(self.distributed.gpusPerWorker) || self.distributed.gpusPerWorker <= 1",
            "which runs in one process: set it to 1, or to 0 without a GPU",
            lambda spec: spec.distributed.gpus_per_worker <= 1,
        ),
        (
            "task.multiLabel",
            "!has(self.task.multiLabel) || !self.task.multiLabel",
            "which answers with one label",
            lambda spec: not spec.task.multi_label,
        ),
        (
            "task.classWeights",
            f"!has(self.task.classWeights) || self.task.classWeights == '{ClassWeights.NONE}'",
            "which has no training loss: remove it",
            lambda spec: spec.task.class_weights is ClassWeights.NONE,
        ),
        (
            "task.loss",
            f"!has(self.task.loss) || self.task.loss == '{LearnedTokens.ASSISTANT}'",
            "which learns no tokens: remove it",
            lambda spec: spec.task.loss is LearnedTokens.ASSISTANT,
        ),
        (
            "evaluation.baseline",
            f"!has(self.evaluation) || !has(self.evaluation.baseline) || self.evaluation.baseline != "
            f"'{BaselineChoice.PREVIOUS}'",
            "whose result is measured against the plain prompt: remove it",
            lambda spec: spec.evaluation.baseline is not BaselineChoice.PREVIOUS,
        ),
        (
            "evaluation.duringTraining",
            "!has(self.evaluation) || !has(self.evaluation.duringTraining)",
            "which trains nothing: remove it",
            lambda spec: spec.evaluation.during_training is None,
        ),
        (
            "evaluation.harness",
            "!has(self.evaluation) || !has(self.evaluation.harness) || size(self.evaluation.harness) == 0",
            "which leaves the model as it is: remove it",
            lambda spec: not spec.evaluation.harness,
        ),
        (
            "evaluation.generation.samples",
            "!has(self.evaluation) || !has(self.evaluation.generation) || !has(self.evaluation.generation.samples) || "
            "self.evaluation.generation.samples == 1",
            "which asks for one answer to each prompt, the likeliest: remove it",
            lambda spec: spec.evaluation.generation.samples == 1,
        ),
    ):
        yield _never_rule(field, unset, why, is_unset)
    yield from _endpoint_rules()


def _endpoint_rules() -> Iterator[Rule]:
    """A model behind an endpoint is asked, and not trained."""
    here = "!has(self.model.endpoint)"
    yield Rule(
        cel=f"{here} || has(self.method) && has(self.method.type) && self.method.type == '{_METHOD}'",
        message=f"model.endpoint is only valid for method {_METHOD}, because the weights of a model behind an endpoint "
        "cannot be trained; set model.uri instead",
        field="model.endpoint",
        holds=lambda spec: spec.model.endpoint is None or spec.method.type is _METHOD,
    )
    yield Rule(
        cel=f"{here} || !has(self.evaluation) || !has(self.evaluation.generation) || "
        "!has(self.evaluation.generation.beams) || self.evaluation.generation.beams == 1",
        message="evaluation.generation.beams cannot be set with model.endpoint, whose server searches no beams: remove "
        "it",
        field="evaluation.generation.beams",
        holds=lambda spec: spec.model.endpoint is None or spec.evaluation.generation.beams == 1,
    )
    chosen = listed(_WITHOUT_PROBABILITIES)
    yield Rule(
        cel=f"{here} || !has(self.evaluation) || (!has(self.evaluation.metrics) || self.evaluation.metrics.all(one, "
        f"!(one in {chosen}))) && (!has(self.evaluation.gates) || self.evaluation.gates.all(one, !(one.metric in "
        f"{chosen})))",
        message=f"{', '.join(_WITHOUT_PROBABILITIES)} cannot be measured with model.endpoint, which answers with one "
        "label or none, without probabilities",
        field="evaluation.metrics",
        holds=lambda spec: spec.model.endpoint is None or not set(spec.metrics).intersection(_WITHOUT_PROBABILITIES),
    )
    teacher_forced = listed(TEACHER_FORCED)
    yield Rule(
        cel=f"{_OTHER} || !has(self.evaluation) || (!has(self.evaluation.metrics) || self.evaluation.metrics.all(one, "
        f"!(one in {teacher_forced}))) && (!has(self.evaluation.gates) || self.evaluation.gates.all(one, "
        f"!(one.metric in {teacher_forced})))",
        message=f"{', '.join(TEACHER_FORCED)} cannot be measured with method {_METHOD}, which measures generated "
        "answers",
        field="evaluation.metrics",
        holds=lambda spec: spec.method.type is not _METHOD or not set(spec.metrics).intersection(TEACHER_FORCED),
    )


def _never_rule(field: str, unset: str, why: str, is_unset: Callable[[FineTuneJobSpec], bool]) -> Rule:
    return Rule(
        cel=f"{_OTHER} || {unset}",
        message=f"{field} cannot be combined with method {_METHOD}, {why}",
        field=field,
        holds=lambda spec: spec.method.type is not _METHOD or is_unset(spec),
    )


def _candidates_rule(task: TaskType) -> Rule:
    """Each instruction has a place for each text of a row, and no other place."""
    names = task.row.placeholders
    places = [f"{{{name}}}" for name in names]
    without = "one" + "".join(f".replace('{place}', '')" for place in places)
    valid = " && ".join([*(f"one.contains('{place}')" for place in places), f"!{without}.matches('{PLACEHOLDER}')"])
    return Rule(
        cel=f"self.task.type != '{task}' || !has(self.method) || !has(self.method.promptSearch) || "
        f"!has({_CANDIDATES}) || {_CANDIDATES}.all(one, {valid})",
        message=f"each of method.promptSearch.candidates of {task} has {' and '.join(places)} in it, where the text of "
        "a row goes, and no other placeholder",
        field="method.promptSearch.candidates",
        holds=lambda spec: spec.task.type is not task or not _invalid(spec, names),
        found=Found(
            cel=f"{_CANDIDATES}.filter(one, !({valid}))[0]",
            of=lambda spec: repr(spec.method.settings.candidates[_invalid(spec, names)[0]]),
            is_text=True,
        ),
        item=lambda spec: _invalid(spec, names)[0],
    )


def _invalid(spec: FineTuneJobSpec, names: tuple[str, ...]) -> list[int]:
    """Positions of the candidates that lack a placeholder, or have another one."""
    search = spec.method.settings
    if not isinstance(search, PromptSearchSpec):
        return []
    return [place for place, candidate in enumerate(search.candidates) if not is_candidate(candidate, names)]


def is_candidate(text: str, names: tuple[str, ...]) -> bool:
    """Whether a text has a place for each of ``names``, and no other placeholder."""
    rest = text
    for name in names:
        rest = rest.replace(f"{{{name}}}", "")
    return all(f"{{{name}}}" in text for name in names) and not re.search(PLACEHOLDER, rest, re.ASCII)
