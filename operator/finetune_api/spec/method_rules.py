"""Validation rules of what a method is not for, generated from the table of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from finetune_api.base import Rule
from finetune_api.spec.rules import listed
from finetune_api.tables.methods import DEFAULT_METHOD, METHODS, MethodRow, MethodType, Quantization
from finetune_api.tables.tasks import TaskType

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec

WHOLE = f"!has(self.model.quantization) || self.model.quantization == '{Quantization.NONE}'"
"""In CEL: the base model is not rounded."""
NOT_PARTITIONED = (
    "!has(self.distributed) || !has(self.distributed.zero) || !has(self.distributed.zero.stage) || "
    "self.distributed.zero.stage < 3"
)
"""In CEL: each process has whole weights."""


def method_rules() -> Iterator[Rule]:
    """Rules of the tasks and settings that each method cannot have."""
    for method, row in METHODS.items():
        for why in dict.fromkeys(row.refused.values()):
            yield _not_for_rule(method, [task for task, reason in row.refused.items() if reason == why], why)
        if row.never_quantized:
            yield _never_rounded_rule(method, row)
    yield from never_rules(
        {method: row.never_packed for method, row in METHODS.items()},
        "training.packing",
        "!has(self.training) || !has(self.training.packing) || !self.training.packing",
        lambda spec: not spec.training.packing,
    )
    yield from never_rules(
        {method: row.never_recomputed for method, row in METHODS.items()},
        "training.activationCheckpointing",
        "!has(self.training) || !has(self.training.activationCheckpointing) || !self.training.activationCheckpointing",
        lambda spec: not spec.training.activation_checkpointing,
    )
    yield from never_rules(
        {method: row.never_partitioned for method, row in METHODS.items()},
        "distributed.zero.stage",
        NOT_PARTITIONED,
        lambda spec: spec.distributed.zero.stage < 3,
        value=" 3",
    )


def _not_for_rule(method: MethodType, tasks: list[TaskType], why: str) -> Rule:
    return Rule(
        cel=f"!has(self.method) || !has(self.method.type) || self.method.type != '{method}' || !(self.task.type in "
        f"{listed(tasks)})",
        message=f"method {method} is not for {' or '.join(tasks)}, {why}; use {DEFAULT_METHOD}",
        field="method.type",
        holds=lambda spec: spec.method.type is not method or spec.task.type not in tasks,
    )


def never_rules(
    reasons: Mapping[MethodType, str],
    field: str,
    unset: str,
    is_unset: Callable[[FineTuneJobSpec], bool],
    value: str = "",
) -> Iterator[Rule]:
    """A rule for each reason, of the methods that it is true of.

    Args:
        reasons: Why a method cannot have the setting; empty if it can.
        field: The setting.
        unset: True in CEL if it is not set.
        is_unset: Likewise, of a spec.
        value: Its value, for the message.
    """
    for why in dict.fromkeys(filter(None, reasons.values())):
        methods = [method for method, reason in reasons.items() if reason == why]

        def holds(spec: FineTuneJobSpec, methods: list[MethodType] = methods) -> bool:
            return spec.method.type not in methods or is_unset(spec)

        yield Rule(
            cel=f"!has(self.method) || !has(self.method.type) || !(self.method.type in {listed(methods)}) || {unset}",
            message=f"{field}{value} cannot be combined with method {' or '.join(methods)}, {why}",
            field=field,
            holds=holds,
        )


def _never_rounded_rule(method: MethodType, row: MethodRow) -> Rule:
    return Rule(
        cel=f"{WHOLE} || !has(self.method) || !has(self.method.type) || self.method.type != '{method}'",
        message=f"model.quantization cannot be combined with method {method}, {row.never_quantized}; use "
        f"{DEFAULT_METHOD}",
        field="model.quantization",
        holds=lambda spec: spec.method.type is not method or spec.model.quantization is Quantization.NONE,
    )
