"""Specs with settings of methods for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

DORA_WITH_WEIGHTS = "useDora cannot be combined with the initialization PiSSA, OLoRA, LoftQ"
RANKS_WITH_EVA = "rankPattern cannot be combined with the initialization EVA"
RANKS_WITH_RSLORA = "useRslora and rankPattern cannot be combined with the initialization PiSSA"
BOTH_OF_IA3 = "set targetModules and feedforwardModules, or neither"
ROUNDED_FULL = "model.quantization cannot be combined with method Full, which trains the weights"
ROUNDED_IA3 = "model.quantization cannot be combined with method IA3, whose layers"
INT8_DORA = "method.lora.useDora cannot be combined with model.quantization Int8"
ROUNDED_START = "method.lora.initialization PiSSA, OLoRA, LoftQ cannot be combined with model.quantization"
INT8_PARTITIONED = "model.quantization Int8 cannot be combined with ZeRO stage 3"
PARTITIONED = "method.lora.initialization with ZeRO stage 3 must be Default"
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
COMPILED = "training.compile cannot be combined with "
EXPERTS_DROPPED = "targetParameters requires dropout: 0"

PACKED_PROMPT = (
    "training.packing cannot be combined with method PromptTuning or PrefixTuning or PTuning, because only the"
)
PARTITIONED_PROMPT = "distributed.zero.stage 3 cannot be combined with method PromptTuning or PrefixTuning or PTuning"
RECOMPUTED_PREFIX = (
    "training.activationCheckpointing cannot be combined with method PrefixTuning, which would add the keys"
)
VIRTUAL = {"PromptTuning": "promptTuning", "PrefixTuning": "prefixTuning", "PTuning": "pTuning"}


def _started(initialization: str, **lora: Any) -> dict[str, Any]:
    return {"method.lora": {"initialization": initialization, **lora}}


ADAPTER_FULL = "model.adapter cannot be combined with method Full or PromptSearch, which trains no adapter"
ADAPTER_START = "method.lora.initialization has no effect with model.adapter"
ADAPTER = {"model.adapter": {"uri": "s3://adapters/team/job/r1/artifact"}}

METHOD_CASES: tuple[tuple[Any, ...], ...] = (
    ("an adapter", ADAPTER),
    ("an adapter with a digest", {"model.adapter": {"uri": "s3://a/b", "digest": f"sha256:{'0' * 64}"}}),
    ("an adapter with settings", {**ADAPTER, "method.lora": {"rank": 4, "initialization": "Default"}}),
    ("an adapter with IA3", {**ADAPTER, "method": {"type": "IA3"}}),
    ("an adapter with Full", {**ADAPTER, "method": {"type": "Full"}}, ADAPTER_FULL),
    ("an adapter with PiSSA", {**ADAPTER, **_started("PiSSA")}, ADAPTER_START),
    ("an adapter with EVA", {**ADAPTER, **_started("EVA")}, ADAPTER_START),
    ("measured against the previous one", {"evaluation.baseline": "Previous"}),
    ("measured against the untuned model", {"evaluation.baseline": "Untuned"}),
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
    ("experts", {"method.lora": {"targetParameters": EXPERTS, "dropout": 0}}),
    (
        "experts beside modules",
        {"method.lora": {"targetParameters": EXPERTS, "targetModules": ["q_proj"], "dropout": 0}},
    ),
    ("no experts", {"method.lora": {"targetParameters": [], "useDora": True}}),
    ("experts with the default dropout", {"method.lora": {"targetParameters": EXPERTS}}, EXPERTS_DROPPED),
    ("experts with dropout", {"method.lora": {"targetParameters": EXPERTS, "dropout": 0.1}}, EXPERTS_DROPPED),
    (
        "experts with DoRA",
        {"method.lora": {"targetParameters": EXPERTS, "dropout": 0, "useDora": True}},
        "useDora cannot be combined with targetParameters",
    ),
    *(
        (
            f"experts with {start}",
            _started(start, targetParameters=EXPERTS, dropout=0),
            "targetParameters requires initialization Default",
        )
        for start in ("PiSSA", "OLoRA", "EVA", "LoftQ")
    ),
    ("experts with Default", _started("Default", targetParameters=EXPERTS, dropout=0)),
    (
        "experts with ZeRO-3",
        {"method.lora": {"targetParameters": EXPERTS, "dropout": 0}, "distributed.zero.stage": 3},
        "method.lora.targetParameters cannot be combined with ZeRO stage 3",
    ),
    *(
        (
            f"experts with {stored}",
            {"model.quantization": stored, "method.lora": {"targetParameters": EXPERTS, "dropout": 0}},
        )
        for stored in ("NF4", "Int8")
    ),
    ("compiled", {"training.compile": True}),
    ("compiled with ZeRO-3", {"training.compile": True, "distributed.zero.stage": 3}, f"{COMPILED}ZeRO stage 3"),
    ("ZeRO-3, not compiled", {"training.compile": False, "distributed.zero.stage": 3}),
    ("NF4, compiled", {"training.compile": True, "model.quantization": "NF4"}, f"{COMPILED}model.quantization"),
    ("not quantised, compiled", {"training.compile": True, "model.quantization": "None"}),
    (
        "experts, compiled",
        {"training.compile": True, "method.lora": {"targetParameters": EXPERTS, "dropout": 0}},
        f"{COMPILED}method.lora.targetParameters",
    ),
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
    *((f"{stored} with LoRA", {"model.quantization": stored}) for stored in ("None", "NF4", "Int8")),
    ("NF4 with IA3", {"model.quantization": "NF4", "method": {"type": "IA3"}}, ROUNDED_IA3),
    ("IA3, not quantised", {"model.quantization": "None", "method": {"type": "IA3"}}),
    ("Int8 with DoRA", {"model.quantization": "Int8", "method.lora": {"useDora": True}}, INT8_DORA),
    ("NF4 with Full", {"model.quantization": "NF4", "method": {"type": "Full"}}, ROUNDED_FULL),
    ("Int8 with Full", {"model.quantization": "Int8", "method": {"type": "Full"}}, ROUNDED_FULL),
    ("not quantised, with Full", {"model.quantization": "None", "method": {"type": "Full"}}),
    *((f"NF4 with {start}", {"model.quantization": "NF4", **_started(start)}) for start in ("Default", "EVA")),
    *(
        (f"NF4 with {start}", {"model.quantization": "NF4", **_started(start)}, ROUNDED_START)
        for start in ("PiSSA", "OLoRA", "LoftQ")
    ),
    ("Int8 with PiSSA", {"model.quantization": "Int8", **_started("PiSSA")}, ROUNDED_START),
    ("PiSSA, not quantised", {"model.quantization": "None", **_started("PiSSA")}),
    ("NF4 with ZeRO-3", {"model.quantization": "NF4", "distributed.zero.stage": 3}),
    (
        "NF4 with DoRA and ZeRO-3",
        {"model.quantization": "NF4", "method.lora": {"useDora": True}, "distributed.zero.stage": 3},
        "method.lora.useDora cannot be combined with model.quantization and ZeRO stage 3",
    ),
    ("NF4 with DoRA", {"model.quantization": "NF4", "method.lora": {"useDora": True}}),
    ("DoRA with ZeRO-3", {"method.lora": {"useDora": True}, "distributed.zero.stage": 3}),
    ("Int8 with ZeRO-2", {"model.quantization": "Int8", "distributed.zero.stage": 2}),
    ("Int8 with ZeRO-3", {"model.quantization": "Int8", "distributed.zero.stage": 3}, INT8_PARTITIONED),
    ("Default with ZeRO-3", {**_started("Default"), "distributed.zero.stage": 3}),
    *((name, {"method": {"type": name, field: {"virtualTokens": 8}}}) for name, field in VIRTUAL.items()),
    ("initial text", {"method": {"type": "PromptTuning", "promptTuning": {"initText": "is it good or bad?"}}}),
    *(
        (f"settings of {name}", {f"method.{field}": {}}, f"{field} is only valid for type {name}")
        for name, field in VIRTUAL.items()
    ),
    *(
        (f"{name} with ZeRO-3", {"method": {"type": name}, "distributed.zero.stage": 3}, PARTITIONED_PROMPT)
        for name in VIRTUAL
    ),
    ("PTuning with ZeRO-2", {"method": {"type": "PTuning"}, "distributed.zero.stage": 2}),
    (
        "PrefixTuning, recomputed",
        {"method": {"type": "PrefixTuning"}, "training.activationCheckpointing": True},
        RECOMPUTED_PREFIX,
    ),
    ("PrefixTuning, not recomputed", {"method": {"type": "PrefixTuning"}, "training.activationCheckpointing": False}),
    ("PromptTuning, recomputed", {"method": {"type": "PromptTuning"}, "training.activationCheckpointing": True}),
    *((f"an adapter with {name}", {**ADAPTER, "method": {"type": name}}) for name in ("PromptTuning", "PrefixTuning")),
    (
        "an adapter with virtual tokens",
        {**ADAPTER, "method": {"type": "PromptTuning", "promptTuning": {"virtualTokens": 8}}},
    ),
    (
        "an adapter with an initial text",
        {**ADAPTER, "method": {"type": "PromptTuning", "promptTuning": {"initText": "is it good or bad?"}}},
        "method.promptTuning.initText has no effect with model.adapter, whose virtual tokens training starts from",
    ),
    (
        "an adapter with PTuning",
        {**ADAPTER, "method": {"type": "PTuning"}},
        "model.adapter cannot be combined with method PTuning, which publishes the embeddings that its network",
    ),
    (
        "PrefixTuning, compiled",
        {"method": {"type": "PrefixTuning"}, "training.compile": True},
        "training.compile cannot be combined with method PrefixTuning, whose keys and values",
    ),
    ("PTuning, compiled", {"method": {"type": "PTuning"}, "training.compile": True}),
    ("NF4 with PTuning", {"model.quantization": "NF4", "method": {"type": "PTuning"}}),
)

CHAT_METHOD_CASES: tuple[tuple[Any, ...], ...] = (
    *((f"packed {name}", {"method": {"type": name}, "training.packing": True}, PACKED_PROMPT) for name in VIRTUAL),
    ("PTuning, not packed", {"method": {"type": "PTuning"}, "training.packing": False}),
)
"""Likewise, of InstructionTuning."""

DOCUMENT_METHOD_CASES: tuple[tuple[Any, ...], ...] = tuple(
    (f"documents with {name}", {"method": {"type": name}}, f"method {name} is not for LanguageModeling, whose rows")
    for name in VIRTUAL
)
"""Likewise, of LanguageModeling."""
