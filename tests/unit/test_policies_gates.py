"""The message of a rejection: which gate, and by how much."""

from __future__ import annotations

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.spec import Gate, Metric
from finetune_core.policies.gates import bound, refusal
from tests.builders import an_evaluation


@pytest.mark.parametrize(
    ("gate", "value", "sentence", "words"),
    [
        (
            Gate(metric=Metric.ACCURACY, minimum=0.9),
            0.84,
            "accuracy is 0.84, 0.06 below the minimum 0.9",
            "accuracy at least 0.9",
        ),
        (Gate(metric=Metric.LOSS, maximum=1.5), 1.75, "loss is 1.75, 0.25 above the maximum 1.5", "loss at most 1.5"),
        (
            Gate(metric=Metric.MACRO_F1, minimum_improvement=0.02),
            0.005,
            "macro_f1 is better than that of the baseline by 0.005, and not by 0.02",
            "macro_f1 better by at least 0.02",
        ),
        (
            Gate(metric=Metric.PASS_AT_1, minimum_improvement=0.1),
            0.0,
            "pass_at_1 is that of the baseline, and not better by 0.1",
            "pass_at_1 better by at least 0.1",
        ),
        (
            Gate(metric=Metric.MICRO_F1, minimum_improvement=0.02),
            -0.7368,
            "micro_f1 is worse than that of the baseline by 0.7368, and not better by 0.02",
            "micro_f1 better by at least 0.02",
        ),
    ],
)
def test_each_kind_of_gate(gate: Gate, value: float, sentence: str, words: str) -> None:
    result = GateResult(**gate.model_dump(by_alias=False), value=value, passed=False)
    assert refusal((gate,), an_evaluation(result)) == sentence
    assert bound(gate) == words


def test_the_implicit_gate_says_how_to_turn_it_off() -> None:
    result = GateResult(metric=Metric.ACCURACY, not_worse=True, value=-0.05, passed=False)
    assert refusal((), an_evaluation(result)) == (
        "accuracy is significantly worse than that of the baseline, by at least 0.05; set evaluation.publishWorse to "
        "publish it nevertheless"
    )
    assert bound(result) == "accuracy not significantly worse than the baseline"


def test_every_refusal_is_named() -> None:
    low = GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False)
    small = GateResult(metric=Metric.MACRO_F1, minimum_improvement=0.1, value=0.05, passed=False)
    told = refusal((), an_evaluation(low, small))
    assert told is not None
    assert told.count(";") == 1
