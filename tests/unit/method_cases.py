"""Specs with settings of methods for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

DORA_WITH_WEIGHTS = "useDora cannot be combined with the initialization PiSSA, OLoRA, LoftQ"
RANKS_WITH_EVA = "rankPattern cannot be combined with the initialization EVA"
RANKS_WITH_RSLORA = "useRslora and rankPattern cannot be combined with the initialization PiSSA"
BOTH_OF_IA3 = "set targetModules and feedforwardModules, or neither"
PARTITIONED = "method.lora.initialization with ZeRO stage 3 must be Default"


def _started(initialization: str, **lora: Any) -> dict[str, Any]:
    return {"method.lora": {"initialization": initialization, **lora}}


METHOD_CASES: tuple[tuple[Any, ...], ...] = (
    ("DoRA", {"method.lora": {"useDora": True}}),
    ("LoRA+", {"method.lora": {"loraPlusRatio": 16}}),
    ("ranks of modules", {"method.lora": {"rankPattern": {"o_proj": 2, "layers.[01].*": 4}}}),
    *((start, _started(start)) for start in ("Default", "PiSSA", "OLoRA", "EVA", "LoftQ")),
    ("DoRA with EVA", _started("EVA", useDora=True)),
    ("DoRA with PiSSA", _started("PiSSA", useDora=True), DORA_WITH_WEIGHTS),
    ("DoRA with LoftQ", _started("LoftQ", useDora=True), DORA_WITH_WEIGHTS),
    ("PiSSA without DoRA", _started("PiSSA", useDora=False)),
    ("ranks with EVA", _started("EVA", rankPattern={"o_proj": 2}), RANKS_WITH_EVA),
    ("no ranks with EVA", _started("EVA", rankPattern={})),
    ("ranks with PiSSA", _started("PiSSA", rankPattern={"o_proj": 2})),
    ("rsLoRA with PiSSA", _started("PiSSA", useRslora=True)),
    ("ranks and rsLoRA", {"method.lora": {"useRslora": True, "rankPattern": {"o_proj": 2}}}),
    ("ranks, rsLoRA and PiSSA", _started("PiSSA", useRslora=True, rankPattern={"o_proj": 2}), RANKS_WITH_RSLORA),
    ("PiSSA with ZeRO-3", {**_started("PiSSA"), "distributed.zero.stage": 3}, PARTITIONED),
    ("EVA with ZeRO-3", {**_started("EVA"), "distributed.zero.stage": 3}, PARTITIONED),
    ("PiSSA with ZeRO-2", {**_started("PiSSA"), "distributed.zero.stage": 2}),
    ("IA3", {"method": {"type": "IA3"}}),
    ("IA3 of layers", {"method": {"type": "IA3", "ia3": {"targetModules": ["k", "wo"], "feedforwardModules": ["wo"]}}}),
    ("IA3 of outputs", {"method": {"type": "IA3", "ia3": {"targetModules": ["k"], "feedforwardModules": []}}}),
    ("IA3 of half", {"method": {"type": "IA3", "ia3": {"targetModules": ["k"]}}}, BOTH_OF_IA3),
    (
        "IA3 of others",
        {"method": {"type": "IA3", "ia3": {"targetModules": ["k"], "feedforwardModules": ["wo"]}}},
        "feedforwardModules must be among targetModules",
    ),
    ("IA3 settings of LoRA", {"method.ia3": {}}, "ia3 is only valid for type IA3"),
    ("Default with ZeRO-3", {**_started("Default"), "distributed.zero.stage": 3}),
)
