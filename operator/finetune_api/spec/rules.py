"""Validation rules within one part of the spec, generated from the tables of tasks and methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic.alias_generators import to_camel

from finetune_api.base import Rule
from finetune_api.tables.methods import DEFAULT_METHOD, METHODS, MethodType
from finetune_api.tables.tasks import TASKS, TaskType

if TYPE_CHECKING:
    from finetune_api.spec.dataset import Columns
    from finetune_api.spec.inputs import TaskSpec
    from finetune_api.spec.training import MethodSpec

COLUMN_FIELDS = tuple(dict.fromkeys(field for row in TASKS.values() for field in row.column_fields))
"""All fields of dataset.columns."""


def default_columns(task: TaskType) -> dict[str, str]:
    """Columns whose default name has no effect if it is set. Where a task has several forms of data, it selects one."""
    return {} if len(task.row.columns) > 1 else {field: field for field in task.row.column_fields}


def task_setting_rules(defaults: Mapping[str, bool | str]) -> Iterator[Rule]:
    """Each setting of spec.task is valid only for its tasks, except its default.

    Args:
        defaults: The settings whose default is a value.
    """
    for setting in dict.fromkeys(name for row in TASKS.values() for name in row.settings):
        owners = [task for task, row in TASKS.items() if setting in row.settings]

        def holds(task: TaskSpec, setting: str = setting, owners: list[TaskType] = owners) -> bool:
            return getattr(task, setting) == defaults.get(setting) or task.type in owners

        alias = to_camel(setting)
        plural = alias.endswith("s") and not alias.endswith("ss")
        default = f"self.{alias} == {_literal(defaults[setting])} || " if setting in defaults else ""
        yield Rule(
            cel=f"!has(self.{alias}) || {default}self.type in {listed(owners)}",
            message=f"{alias} {'are' if plural else 'is'} only valid for type {' or '.join(owners)}",
            field=alias,
            holds=holds,
        )


def required_setting_rules() -> Iterator[Rule]:
    """Each task has the settings of spec.task that it requires."""
    for owner, setting in ((task, setting) for task, row in TASKS.items() for setting in row.required):

        def holds(task: TaskSpec, owner: TaskType = owner, setting: str = setting) -> bool:
            return task.type is not owner or getattr(task, setting) is not None

        alias = to_camel(setting)
        yield Rule(
            cel=f"self.type != '{owner}' || has(self.{alias})",
            message=f"{owner} requires {alias}",
            field=alias,
            holds=holds,
        )


def method_setting_rules() -> Iterator[Rule]:
    """Each settings field of spec.method is valid only for its method."""
    for method, row in METHODS.items():
        if row.settings is None:
            continue
        field = row.settings.field

        def holds(spec: MethodSpec, method: MethodType = method, field: str = field) -> bool:
            return getattr(spec, field) is None or spec.type is method

        alias = to_camel(field)
        omitted = "!has(self.type) ||" if method is DEFAULT_METHOD else "has(self.type) &&"
        yield Rule(
            cel=f"!has(self.{alias}) || {omitted} self.type == '{method}'",
            message=f"{alias} is only valid for type {method}",
            field=alias,
            holds=holds,
        )


def required_method_setting_rules() -> Iterator[Rule]:
    """Each method has the settings without which it has no meaning."""
    for method, row in METHODS.items():
        if row.settings is None or not row.settings.required:
            continue
        field = row.settings.field

        def holds(spec: MethodSpec, method: MethodType = method, field: str = field) -> bool:
            return spec.type is not method or getattr(spec, field) is not None

        alias = to_camel(field)
        yield Rule(
            cel=f"!has(self.type) || self.type != '{method}' || has(self.{alias})",
            message=f"{method} requires {alias}",
            field=alias,
            holds=holds,
        )


def column_form_rules() -> Iterator[Rule]:
    """Columns of different forms of the data of a task are mutually exclusive."""
    for row in TASKS.values():
        for index, form in enumerate(row.columns):
            for other in row.columns[index + 1 :]:
                first, second = ([column.field for column in columns] for columns in (form, other))
                shared = set(first) & set(second)
                yield _exclusive(
                    [field for field in first if field not in shared],
                    [field for field in second if field not in shared],
                )


def _exclusive(form: list[str], other: list[str]) -> Rule:
    def holds(columns: Columns) -> bool:
        return not (any_of(columns, form) and any_of(columns, other))

    absent = (" && ".join(f"!has(self.{to_camel(field)})" for field in fields) for fields in (form, other))
    return Rule(
        cel=" || ".join(absent),
        message=f"set {_columns_in_words(form)}, or {_columns_in_words(other)}, not both",
        field=to_camel(form[0]),
        holds=holds,
    )


def any_of(columns: Columns, fields: Iterable[str]) -> bool:
    return any(getattr(columns, field) is not None for field in fields)


def _columns_in_words(form: Iterable[str]) -> str:
    return " and ".join(f"columns.{to_camel(field)}" for field in form)


def _literal(value: bool | str) -> str:
    """``value`` as a CEL literal."""
    return str(value).lower() if isinstance(value, bool) else repr(str(value))


def listed(values: Iterable[str]) -> str:
    """``values`` as a CEL list."""
    return str([str(value) for value in values])
