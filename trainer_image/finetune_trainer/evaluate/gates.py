"""Gates: conditions that the tuned model must meet to be published."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.evaluation import GateResult, MetricResult, Verdict
from finetune_api.spec import EvaluationSpec, Gate

# 0.83 - 0.81 is 0.01999… in floating point, but must pass a gate of 0.02.
_ROUNDING = 1e-9


def check_gates(spec: EvaluationSpec, metrics: Sequence[MetricResult]) -> tuple[GateResult, ...]:
    """Check every gate, and that the score, the first of ``metrics``, is not significantly worse than the baseline.

    ``metrics`` must contain the metric of each gate.
    """
    results = {metric.name: metric for metric in metrics}
    checked = [_check(gate, results[gate.metric]) for gate in spec.gates]
    if not spec.publish_worse:
        score = metrics[0]
        passed = score.verdict is not Verdict.WORSE
        checked.append(GateResult(metric=score.name, not_worse=True, value=score.best_improvement, passed=passed))
    return tuple(checked)


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
