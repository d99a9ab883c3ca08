"""Costs of methods for the tests of `finetune advise`."""

from __future__ import annotations

from typing import Any

from finetune_api.stage import Device, World
from finetune_api.tables.methods import MethodType, Quantization
from finetune_cli.advise.candidates import Candidate
from finetune_cli.advise.costs import Cost, Costs, DataFacts, cost_of
from tests.builders import a_job

GIB = 1 << 30
GPU = World(workers=1, processes_per_worker=2, device=Device.GPU)
FACTS = DataFacts(3249, 23_620, 23_620, 12, "encoder", 25)
CLASSES = {"type": "TextClassification"}
GIB_TEXT = "1.1 GB"
HUB = {"uri": "hf://o/m"}
ASKED = {"mode": "Responses", "teacher": {"endpoint": {"url": "http://localhost/v1", "model": "large"}}}
RAW = {
    "parameters": 1_000_000_000,
    "rounded": None,
    "trained": 10_000_000,
    "activationBytes": 8 * GIB,
    "recomputedBytes": 2 * GIB,
    "precision": "BF16",
    "rows": 8,
    "steps": 300,
    "tokens": 60_000,
}


def by_name(found: list[Candidate]) -> dict[str, Candidate]:
    return {one.name: one for one in found}


def cost(method: str, raw: dict[str, Any] | None = None, limit: float | None = None, **spec: Any) -> Cost:
    """The cost of a method on two GPUs with ``limit`` GiB each."""
    quantization, teacher = spec.pop("quantization", "None"), spec.pop("teacher", None)
    job = a_job(method={"type": method}, model={"uri": "hf://o/m", "quantization": quantization}, **spec)
    candidate = Candidate(MethodType(method), Quantization(quantization), job.spec)
    bytes_ = None if limit is None else round(limit * GIB)
    return cost_of(candidate, job.spec, {**RAW, **(raw or {})}, world=GPU, limit=bytes_, program=0, teacher=teacher)


def known(*trained: tuple[str, int], facts: DataFacts = FACTS) -> Costs:
    return Costs(facts, 16 * GIB, tuple(cost(method, {"trained": count}) for method, count in trained))
