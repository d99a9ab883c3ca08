"""Validation rules across the parts of the spec, generated from the tables of tasks and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic.alias_generators import to_camel

from finetune_api.base import Rule
from finetune_api.method_settings import LoraInitialization, LoraSpec
from finetune_api.spec.code_rules import code_rules
from finetune_api.spec.compile_rules import compile_rules
from finetune_api.spec.continuing_rules import continuing_rules
from finetune_api.spec.distillation_rules import distillation_rules
from finetune_api.spec.method_rules import NOT_PARTITIONED, WHOLE, method_rules
from finetune_api.spec.outcome import GenerationSpec
from finetune_api.spec.rules import COLUMN_FIELDS, any_of, listed
from finetune_api.spec.search_rules import search_rules
from finetune_api.tables.methods import Quantization
from finetune_api.tables.metrics import Metric
from finetune_api.tables.preferences import PreferenceLoss, losses_by_rows
from finetune_api.tables.tasks import TASKS, TaskRow, TaskType, names_of
from finetune_api.vocabulary import DataFormat

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec


_LOSS = (
    "(has(self.method) && has(self.method.preference) && has(self.method.preference.loss) ? "
    f"self.method.preference.loss : '{PreferenceLoss.DPO}')"
)


def job_rules() -> tuple[Rule, ...]:
    """Rules that depend on the task or the method."""
    return (
        _packing_rule(),
        _joined_rule(),
        *(rule for task, row in TASKS.items() for rule in _measures_rules(task, row)),
        _generation_rule(),
        _during_training_rule(),
        _harness_rule(),
        *code_rules(),
        *compile_rules(),
        *(_columns_rule(task, row) for task, row in TASKS.items()),
        *_format_rules(),
        _documents_rule(),
        *method_rules(),
        _partitioned_rule(),
        _parameters_rule(),
        _rounded_start_rule(),
        _rounded_partitioned_rule(),
        *_rounded_dora_rules(),
        _preference_rule(),
        *(_columns_of_losses_rule(losses) for losses in losses_by_rows().values()),
        _divergence_rule(),
        *continuing_rules(),
        *search_rules(),
        *distillation_rules(),
    )


def _packing_rule() -> Rule:
    packing = [task for task, row in TASKS.items() if row.packs or row.joins]
    return Rule(
        cel="!has(self.training) || !has(self.training.packing) || !self.training.packing || "
        f"self.task.type in {listed(packing)}",
        message=f"training.packing is only valid for {names_of(packs=True)}; "
        f"{names_of(packs=False, joins=False)} groups texts by length instead",
        field="training.packing",
        holds=lambda spec: not spec.training.packing or spec.task.type in packing,
    )


def _joined_rule() -> Rule:
    joining = [task for task, row in TASKS.items() if row.joins]
    return Rule(
        cel=f"!(self.task.type in {listed(joining)}) || !has(self.training) || !has(self.training.packing)",
        message=f"training.packing has no meaning for {names_of(joins=True)}: rows are full without it; remove it",
        field="training.packing",
        holds=lambda spec: spec.task.type not in joining or spec.training.packing is None,
    )


def _measures_rules(task: TaskType, row: TaskRow) -> Iterator[Rule]:
    """The metrics that evaluation.metrics and gates can name."""
    if row.multi_label is not None:
        chosen = "has(self.task.multiLabel) && self.task.multiLabel"
        yield from _metrics_rules(task, row.metrics, "", chosen, lambda spec: not spec.task.multi_label)
        yield from _metrics_rules(
            task, row.multi_label.metrics, " with multiLabel", f"!({chosen})", lambda spec: spec.task.multi_label
        )
    elif task is TaskType.PREFERENCE_TUNING:
        for losses in losses_by_rows().values():
            unless = f"!({_LOSS} in {listed(losses)})"
            yield from _metrics_rules(task, losses[0].row.metrics, f" with {' or '.join(losses)}", unless, _has(losses))
    else:
        yield from _metrics_rules(task, row.metrics, "", None, lambda _: True)


def _metrics_rules(
    task: TaskType,
    metrics: tuple[Metric, ...],
    words: str,
    unless: str | None,
    applies: Callable[[FineTuneJobSpec], bool],
) -> Iterator[Rule]:
    """Rules of ``task`` for the specs that ``applies`` is true of; ``unless`` is the opposite in CEL."""
    others = f"self.task.type != '{task}' || " + (f"{unless} || " if unless else "")
    for field, clause, message, named in (
        (
            "metrics",
            f"self.evaluation.metrics.all(m, m in {listed(metrics)})",
            f"evaluation.metrics of {task}{words} are {', '.join(metrics)}",
            lambda spec: spec.evaluation.metrics or (),
        ),
        (
            "gates",
            f"self.evaluation.gates.all(g, g.metric.contains('/') || g.metric in {listed(metrics)})",
            f"gates of {task}{words} can be on {', '.join(metrics)}",
            lambda spec: spec.evaluation.gated,
        ),
    ):

        def holds(spec: FineTuneJobSpec, named: Callable[[FineTuneJobSpec], Iterable[Metric]] = named) -> bool:
            return not applies(spec) or set(named(spec)) <= set(metrics)

        yield Rule(
            cel=f"{others}!has(self.evaluation) || !has(self.evaluation.{field}) || {clause}",
            message=message,
            field=f"evaluation.{field}",
            holds=_of_task(task, holds),
        )


def _generation_rule() -> Rule:
    default = GenerationSpec()
    generating = [task for task, row in TASKS.items() if row.generates]
    changed = " || ".join(
        f"has(self.evaluation.generation.{info.alias})"
        + (
            ""
            if (value := getattr(default, name)) is None
            else f" && self.evaluation.generation.{info.alias} != {value}"
        )
        for name, info in GenerationSpec.model_fields.items()
    )
    return Rule(
        # A model behind an endpoint generates its labels, too.
        cel=f"self.task.type in {listed(generating)} || has(self.model.endpoint) || !has(self.evaluation) || "
        f"!has(self.evaluation.generation) || !({changed})",
        message=f"evaluation.generation is only valid for {names_of(generates=True)}, or with model.endpoint; the "
        f"evaluation of {names_of(generates=False)} generates nothing",
        field="evaluation.generation",
        holds=lambda spec: (
            spec.task.type in generating or spec.model.endpoint is not None or spec.evaluation.generation == default
        ),
    )


def _during_training_rule() -> Rule:
    generating = [task for task, row in TASKS.items() if row.generates]
    return Rule(
        cel=f"self.task.type in {listed(generating)} || !has(self.evaluation) || !has(self.evaluation.duringTraining)",
        message=f"evaluation.duringTraining is only valid for {names_of(generates=True)}; the evaluation of "
        f"{names_of(generates=False)} generates nothing",
        field="evaluation.duringTraining",
        holds=lambda spec: spec.task.type in generating or spec.evaluation.during_training is None,
    )


def _harness_rule() -> Rule:
    tasks = [task for task, row in TASKS.items() if row.language_model]
    return Rule(
        cel=f"self.task.type in {listed(tasks)} || !has(self.evaluation) || !has(self.evaluation.harness) || "
        "size(self.evaluation.harness) == 0",
        message=f"evaluation.harness measures models that predict text; {names_of(language_model=False)} gives none",
        field="evaluation.harness",
        holds=lambda spec: spec.task.type in tasks or not spec.evaluation.harness,
    )


def _columns_rule(task: TaskType, row: TaskRow) -> Rule:
    others = tuple(field for field in COLUMN_FIELDS if field not in row.column_fields)
    absent = " && ".join(f"!has(self.dataset.columns.{to_camel(field)})" for field in others) or "true"
    return Rule(
        cel=f"self.task.type != '{task}' || !has(self.dataset.columns) || {absent}",
        message=f"dataset.columns of {task} are {row.columns_in_words}",
        field="dataset.columns",
        holds=_of_task(task, lambda spec: not any_of(spec.dataset.columns, others)),
    )


def _format_rules() -> Iterator[Rule]:
    formats = dict.fromkeys(format_ for row in TASKS.values() for format_ in row.formats)
    for format_ in formats:
        tasks = [task for task, row in TASKS.items() if format_ in row.formats]
        if len(tasks) == len(TASKS):
            continue

        def holds(spec: FineTuneJobSpec, format_: str = format_, tasks: list[TaskType] = tasks) -> bool:
            return spec.dataset.format != format_ or spec.task.type in tasks

        yield Rule(
            cel=f"!has(self.dataset.format) || self.dataset.format != '{format_}' || self.task.type in {listed(tasks)}",
            message=f"dataset.format {format_} is only valid for {', '.join(tasks)}",
            field="dataset.format",
            holds=holds,
        )


def _documents_rule() -> Rule:
    reading = [task for task, row in TASKS.items() if DataFormat.TEXT in row.formats]
    return Rule(
        cel=f"!has(self.dataset.documents) || self.task.type in {listed(reading)}",
        message=f"dataset.documents is only valid for {', '.join(reading)}",
        field="dataset.documents",
        holds=lambda spec: spec.dataset.documents is None or spec.task.type in reading,
    )


def _partitioned_rule() -> Rule:
    default = LoraInitialization.DEFAULT
    return Rule(
        cel="!has(self.method) || !has(self.method.lora) || !has(self.method.lora.initialization) || "
        f"self.method.lora.initialization == '{default}' || {NOT_PARTITIONED}",
        message=f"method.lora.initialization with ZeRO stage 3 must be {default}, because no process has the whole "
        "weights; use stage 2",
        field="method.lora.initialization",
        holds=lambda spec: (
            spec.distributed.zero.stage < 3
            or not isinstance(spec.method.settings, LoraSpec)
            or spec.method.settings.initialization is default
        ),
    )


def _parameters_rule() -> Rule:
    return Rule(
        cel="!has(self.method) || !has(self.method.lora) || !has(self.method.lora.targetParameters) || "
        f"self.method.lora.targetParameters.size() == 0 || {NOT_PARTITIONED}",
        message="method.lora.targetParameters cannot be combined with ZeRO stage 3, because no process has the "
        "whole weights of the experts; use a stage from 0 to 2",
        field="method.lora.targetParameters",
        holds=lambda spec: (
            spec.distributed.zero.stage < 3
            or not isinstance(spec.method.settings, LoraSpec)
            or not spec.method.settings.target_parameters
        ),
    )


def _rounded_start_rule() -> Rule:
    chosen = [str(start) for start in LoraInitialization if start.of_weights]
    return Rule(
        cel=f"{WHOLE} || !has(self.method) || !has(self.method.lora) || !has(self.method.lora.initialization) || "
        f"!(self.method.lora.initialization in {listed(chosen)})",
        message=f"method.lora.initialization {', '.join(chosen)} cannot be combined with model.quantization: the "
        "adapter takes over a part of the exact weights, which a rounded model does not have; use Default or EVA",
        field="method.lora.initialization",
        holds=lambda spec: (
            spec.model.quantization is Quantization.NONE
            or not isinstance(spec.method.settings, LoraSpec)
            or not spec.method.settings.initialization.of_weights
        ),
    )


def _rounded_partitioned_rule() -> Rule:
    return Rule(
        cel=f"!has(self.model.quantization) || self.model.quantization != '{Quantization.INT8}' || {NOT_PARTITIONED}",
        message=f"model.quantization {Quantization.INT8} cannot be combined with ZeRO stage 3, which would lose the "
        f"scales of the weights; use a stage from 0 to 2, or {Quantization.NF4}",
        field="model.quantization",
        holds=lambda spec: spec.model.quantization is not Quantization.INT8 or spec.distributed.zero.stage < 3,
    )


def _rounded_dora_rules() -> Iterator[Rule]:
    without = (
        "!has(self.method) || !has(self.method.lora) || !has(self.method.lora.useDora) || !self.method.lora.useDora"
    )

    def holds(spec: FineTuneJobSpec) -> bool:
        return not isinstance(spec.method.settings, LoraSpec) or not spec.method.settings.use_dora

    yield Rule(
        cel=f"!has(self.model.quantization) || self.model.quantization != '{Quantization.INT8}' || {without}",
        message=f"method.lora.useDora cannot be combined with model.quantization {Quantization.INT8}, whose scales "
        f"PEFT loses when it computes the norms of the weights; use {Quantization.NF4}",
        field="method.lora.useDora",
        holds=lambda spec: spec.model.quantization is not Quantization.INT8 or holds(spec),
    )
    yield Rule(
        cel=f"{WHOLE} || {without} || {NOT_PARTITIONED}",
        message="method.lora.useDora cannot be combined with model.quantization and ZeRO stage 3: DoRA needs the norms "
        "of whole weights in each step; use a stage from 0 to 2",
        field="method.lora.useDora",
        holds=lambda spec: (
            spec.model.quantization is Quantization.NONE or spec.distributed.zero.stage < 3 or holds(spec)
        ),
    )


def _preference_rule() -> Rule:
    return Rule(
        cel=f"!has(self.method) || !has(self.method.preference) || self.task.type == '{TaskType.PREFERENCE_TUNING}'",
        message=f"method.preference is only valid for {TaskType.PREFERENCE_TUNING}",
        field="method.preference",
        holds=lambda spec: spec.method.preference is None or spec.task.type is TaskType.PREFERENCE_TUNING,
    )


def _columns_of_losses_rule(losses: Sequence[PreferenceLoss]) -> Rule:
    task, columns = TaskType.PREFERENCE_TUNING, losses[0].row.columns
    others = tuple(field for field in task.row.column_fields if field not in columns)
    absent = " && ".join(f"!has(self.dataset.columns.{to_camel(field)})" for field in others)
    return Rule(
        cel=f"self.task.type != '{task}' || !({_LOSS} in {listed(losses)}) || !has(self.dataset.columns) || {absent}",
        message=f"dataset.columns of {task} with {' or '.join(losses)} are {', '.join(columns[:-1])} and {columns[-1]}",
        field="dataset.columns",
        holds=lambda spec: not (_has(losses)(spec) and any_of(spec.dataset.columns, others)),
    )


def _divergence_rule() -> Rule:
    return Rule(
        cel=f"self.task.type != '{TaskType.PREFERENCE_TUNING}' || {_LOSS} != '{PreferenceLoss.KTO}' || "
        "!has(self.training) || !has(self.training.batchSize) || self.training.batchSize > 1",
        message="training.batchSize with KTO is at least 2, because a single answer does not show how far the model "
        "has moved from the base model",
        field="training.batchSize",
        holds=lambda spec: not _has([PreferenceLoss.KTO])(spec) or spec.training.batch_size > 1,
    )


def _has(losses: Sequence[PreferenceLoss]) -> Callable[[FineTuneJobSpec], bool]:
    return lambda spec: spec.preference is not None and spec.preference.loss in losses


def _of_task(task: TaskType, holds: Callable[[FineTuneJobSpec], bool]) -> Callable[[FineTuneJobSpec], bool]:
    return lambda spec: spec.task.type is not task or holds(spec)
