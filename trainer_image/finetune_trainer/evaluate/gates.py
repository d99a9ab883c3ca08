"""Gates: conditions that the tuned model must meet to be published."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_api.evaluation import GateResult, MetricResult
from finetune_api.spec import Gate

# 0.83 - 0.81 is 0.01999… in floating point, but must pass a gate of 0.02.
_ROUNDING = 1e-9


def check_gates(gates: Iterable[Gate], metrics: Iterable[MetricResult]) -> tuple[GateResult, ...]:
    """Check every gate; ``metrics`` must contain the metric of each gate."""
    results = {metric.name: metric for metric in metrics}
    return tuple(_check(gate, results[gate.metric]) for gate in gates)


def _check(gate: Gate, metric: MetricResult) -> GateResult:
    if gate.minimum_improvement is not None:
        value = metric.improvement
        passed = value >= gate.minimum_improvement - _ROUNDING
    elif gate.minimum is not None:
        value = metric.tuned
        passed = value >= gate.minimum - _ROUNDING
    else:
        value = metric.tuned
        passed = gate.maximum is not None and value <= gate.maximum + _ROUNDING
    return GateResult(
        metric=gate.metric,
        minimum=gate.minimum,
        maximum=gate.maximum,
        minimum_improvement=gate.minimum_improvement,
        value=value,
        passed=passed,
    )
