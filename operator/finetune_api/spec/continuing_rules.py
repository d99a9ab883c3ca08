"""Validation rules of ``model.adapter``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Rule
from finetune_api.method_settings import LoraInitialization, LoraSpec
from finetune_api.spec.rules import listed
from finetune_api.tables.methods import METHODS, Result

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec


def continuing_rules() -> Iterator[Rule]:
    """An adapter is continued with the method that trained it, from the weights that it has."""
    others = [method for method, row in METHODS.items() if row.result is not Result.ADAPTER]
    yield Rule(
        cel="!has(self.model.adapter) || !has(self.method) || !has(self.method.type) || "
        f"!(self.method.type in {listed(others)})",
        message=f"model.adapter cannot be combined with method {' or '.join(others)}, which trains no adapter: use the "
        "method of the adapter",
        field="model.adapter",
        holds=lambda spec: spec.model.adapter is None or spec.method.type not in others,
    )
    virtual = [method for method, row in METHODS.items() if row.virtual]
    yield Rule(
        cel="!has(self.model.adapter) || !has(self.method) || !has(self.method.type) || "
        f"!(self.method.type in {listed(virtual)})",
        message=f"model.adapter cannot be combined with method {' or '.join(virtual)}, whose virtual tokens PEFT loads "
        "for use only",
        field="model.adapter",
        holds=lambda spec: spec.model.adapter is None or spec.method.type not in virtual,
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


def _initialization(spec: FineTuneJobSpec) -> LoraInitialization:
    settings = spec.method.settings
    return settings.initialization if isinstance(settings, LoraSpec) else LoraInitialization.DEFAULT
