"""Validation rules of training.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from finetune_api.base import Rule
from finetune_api.method_settings import LoraSpec
from finetune_api.spec.method_rules import NOT_PARTITIONED, WHOLE, never_rules
from finetune_api.tables.methods import MethodType, Quantization

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec

_OFF = "!has(self.training) || !has(self.training.compile) || !self.training.compile"


def compile_rules() -> Iterator[Rule]:
    """What cannot be compiled."""
    yield _rule(
        NOT_PARTITIONED,
        "ZeRO stage 3, which gathers the weights of a layer while it runs; use a stage from 0 to 2",
        lambda spec: spec.distributed.zero.stage < 3,
    )
    yield _rule(
        WHOLE,
        "model.quantization, because the kernels of bitsandbytes are not compiled",
        lambda spec: spec.model.quantization is Quantization.NONE,
    )
    yield _rule(
        "!has(self.method) || !has(self.method.lora) || !has(self.method.lora.targetParameters) || "
        "self.method.lora.targetParameters.size() == 0",
        "method.lora.targetParameters, with which PEFT changes the layers in each step",
        lambda spec: not isinstance(spec.method.settings, LoraSpec) or not spec.method.settings.target_parameters,
    )
    yield from never_rules(
        {MethodType.PREFIX_TUNING: "whose keys and values each layer adds to its own"},
        "training.compile",
        _OFF,
        lambda spec: not spec.training.compile,
    )


def _rule(cel: str, text: str, holds: Callable[[FineTuneJobSpec], bool]) -> Rule:
    return Rule(
        cel=f"{_OFF} || {cel}",
        message=f"training.compile cannot be combined with {text}",
        field="training.compile",
        holds=lambda spec: not spec.training.compile or holds(spec),
    )
