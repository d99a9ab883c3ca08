"""Gates: what is compared with which bound."""

from __future__ import annotations

import pytest

from finetune_api.evaluation import MetricResult
from finetune_api.spec import EvaluationSpec, Gate, Metric
from finetune_trainer.evaluate.gates import check_gates


def _metric(name: Metric, baseline: float, tuned: float) -> MetricResult:
    change = tuned - baseline
    return MetricResult(
        name=name,
        baseline=baseline,
        tuned=tuned,
        change=change,
        interval=(change, change),
        higher_is_better=name.higher_is_better,
    )


@pytest.mark.parametrize(
    ("gate", "value", "passed"),
    [
        (Gate(metric=Metric.ACCURACY, minimum=0.83), 0.83, True),
        (Gate(metric=Metric.ACCURACY, minimum=0.84), 0.83, False),
        # 0.83 - 0.81 is a little below 0.02 in floating point.
        (Gate(metric=Metric.ACCURACY, minimum_improvement=0.02), 0.02, True),
        (Gate(metric=Metric.ACCURACY, minimum_improvement=0.021), 0.02, False),
        (Gate(metric=Metric.LOSS, maximum=1.5), 1.5, True),
        (Gate(metric=Metric.LOSS, maximum=1.4), 1.5, False),
        # A loss improves by falling.
        (Gate(metric=Metric.LOSS, minimum_improvement=0.5), 0.5, True),
        (Gate(metric=Metric.LOSS, minimum_improvement=0.6), 0.5, False),
    ],
)
def test_gate(gate: Gate, value: float, passed: bool) -> None:
    metrics = [_metric(Metric.ACCURACY, 0.81, 0.83), _metric(Metric.LOSS, 2.0, 1.5)]
    (result,) = check_gates(EvaluationSpec(gates=(gate,), publish_worse=True), metrics)
    assert result.value == pytest.approx(value)
    assert result.passed is passed
    bounds = ("metric", "minimum", "maximum", "minimum_improvement")
    assert [getattr(result, name) for name in bounds] == [getattr(gate, name) for name in bounds]


def test_order_is_kept_and_no_gates_is_fine() -> None:
    gates = [Gate(metric=Metric.LOSS, maximum=9.0), Gate(metric=Metric.ACCURACY, minimum=0.9)]
    metrics = [_metric(Metric.ACCURACY, 0.81, 0.83), _metric(Metric.LOSS, 2.0, 1.5)]
    spec = EvaluationSpec(gates=tuple(gates), publish_worse=True)
    assert [result.passed for result in check_gates(spec, metrics)] == [True, False]
    assert check_gates(EvaluationSpec(publish_worse=True), metrics) == ()


@pytest.mark.parametrize(
    ("name", "interval", "value", "passed"),
    [
        (Metric.ACCURACY, (-0.2, -0.1), -0.1, False),
        (Metric.ACCURACY, (-0.2, 0.0), 0.0, True),
        (Metric.ACCURACY, (-0.2, 0.1), 0.1, True),
        (Metric.LOSS, (0.1, 0.2), -0.1, False),
        (Metric.LOSS, (-0.3, 0.2), 0.3, True),
    ],
)
def test_a_score_that_is_significantly_worse_fails_the_implicit_gate(
    name: Metric, interval: tuple[float, float], value: float, passed: bool
) -> None:
    score = _metric(name, 1.0, 1.0 + sum(interval) / 2).model_copy(update={"interval": interval})
    other = _metric(Metric.EXACT_MATCH, 0.9, 0.1)
    (gate,) = check_gates(EvaluationSpec(), [score, other])
    assert (gate.metric, gate.not_worse, gate.value, gate.passed) == (name, True, pytest.approx(value), passed)
