"""Validation rules of ``distillation`` across the parts of the spec, generated from the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Rule
from finetune_api.spec.distillation import DEFAULT_MODE
from finetune_api.spec.method_rules import never_rules
from finetune_api.spec.rules import listed
from finetune_api.tables.distillation import DistillationMode
from finetune_api.tables.methods import METHODS
from finetune_api.tables.tasks import TASKS, TaskType

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec


def distillation_rules() -> Iterator[Rule]:
    """The methods and tasks that a student can be trained with."""
    yield from never_rules(
        {method: row.never_distilled for method, row in METHODS.items()},
        "distillation",
        "!has(self.distillation)",
        lambda spec: spec.distillation is None,
    )
    for mode in DistillationMode:
        reasons = {task: row.not_distilled[mode] for task, row in TASKS.items() if mode in row.not_distilled}
        for why in dict.fromkeys(reasons.values()):
            yield _not_for_rule(mode, [task for task, reason in reasons.items() if reason == why], why)


def _not_for_rule(mode: DistillationMode, tasks: list[TaskType], why: str) -> Rule:
    def holds(spec: FineTuneJobSpec) -> bool:
        return spec.distillation is None or spec.distillation.mode is not mode or spec.task.type not in tasks

    return Rule(
        cel="!has(self.distillation) || "
        f"(has(self.distillation.mode) ? self.distillation.mode : '{DEFAULT_MODE}') != '{mode}' || "
        f"!(self.task.type in {listed(tasks)})",
        message=f"distillation with mode {mode} is not for {' or '.join(tasks)}, {why}",
        field="distillation",
        holds=holds,
    )
