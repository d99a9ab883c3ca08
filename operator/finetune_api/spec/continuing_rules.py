"""Validation rules of ``model.adapter``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Rule
from finetune_api.method_settings import LoraInitialization, LoraSpec, PromptTuningSpec
from finetune_api.spec.method_rules import never_rules
from finetune_api.tables.methods import METHODS, MethodRow, Result

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec


def continuing_rules() -> Iterator[Rule]:
    """An adapter is continued with the method that trained it, from the weights that it has."""
    reasons = {method: _why_not(row) for method, row in METHODS.items()}
    yield from never_rules(
        reasons, "model.adapter", "!has(self.model.adapter)", lambda spec: spec.model.adapter is None
    )
    default = LoraInitialization.DEFAULT
    yield Rule(
        cel="!has(self.model.adapter) || !has(self.method) || !has(self.method.lora) || "
        f"!has(self.method.lora.initialization) || self.method.lora.initialization == '{default}'",
        message="method.lora.initialization has no effect with model.adapter, whose weights training starts from: "
        "remove it",
        field="method.lora.initialization",
        holds=lambda spec: spec.model.adapter is None or _initialization(spec) is default,
    )
    yield Rule(
        cel="!has(self.model.adapter) || !has(self.method) || !has(self.method.promptTuning) || "
        "!has(self.method.promptTuning.initText)",
        message="method.promptTuning.initText has no effect with model.adapter, whose virtual tokens training starts "
        "from: remove it",
        field="method.promptTuning.initText",
        holds=lambda spec: spec.model.adapter is None or _initial_text(spec) is None,
    )


def _why_not(row: MethodRow) -> str:
    """Why a method cannot continue from an adapter; empty if it can."""
    if row.result is not Result.ADAPTER:
        return "which trains no adapter: use the method of the adapter"
    return row.never_continued


def _initialization(spec: FineTuneJobSpec) -> LoraInitialization:
    settings = spec.method.settings
    return settings.initialization if isinstance(settings, LoraSpec) else LoraInitialization.DEFAULT


def _initial_text(spec: FineTuneJobSpec) -> str | None:
    settings = spec.method.settings
    return settings.init_text if isinstance(settings, PromptTuningSpec) else None
