"""Whether a result is good enough to be published."""

from __future__ import annotations

from finetune_api.evaluation import Evaluation, GateResult
from finetune_api.spec import Gate


def refusal(gates: tuple[Gate, ...], evaluation: Evaluation) -> str | None:
    """Why the result is not published, with the numbers; None when every gate holds.

    A gate of the spec that was not measured does not hold.
    """
    reported = {_bound(result) for result in evaluation.gates}
    sentences = [_sentence(result) for result in evaluation.gates if not result.passed]
    sentences += [f"the gate on {gate.metric} was not measured" for gate in gates if _bound(gate) not in reported]
    return "; ".join(sentences) or None


def bound(gate: Gate) -> str:
    """The gate in words: ``macro_f1 at least 0.8``."""
    if isinstance(gate, GateResult) and gate.not_worse:
        return f"{gate.metric} not significantly worse than the baseline"
    if gate.minimum is not None:
        return f"{gate.metric} at least {gate.minimum:g}"
    if gate.maximum is not None:
        return f"{gate.metric} at most {gate.maximum:g}"
    return f"{gate.metric} better by at least {gate.minimum_improvement:g}"


def _bound(gate: Gate) -> tuple[object, ...]:
    return (gate.metric, gate.minimum, gate.maximum, gate.minimum_improvement)


def _sentence(gate: GateResult) -> str:
    if gate.not_worse:
        return (
            f"{gate.metric} is significantly worse than that of the baseline, by at least {-gate.value:.4g}; set "
            "evaluation.publishWorse to publish it nevertheless"
        )
    if gate.minimum is not None:
        return f"{gate.metric} is {gate.value:.4g}, {gate.minimum - gate.value:.2g} below the minimum {gate.minimum:g}"
    if gate.maximum is not None:
        return f"{gate.metric} is {gate.value:.4g}, {gate.value - gate.maximum:.2g} above the maximum {gate.maximum:g}"
    wanted = gate.minimum_improvement or 0.0
    if gate.value == 0:
        return f"{gate.metric} is that of the baseline, and not better by {wanted:g}"
    if gate.value < 0:
        return f"{gate.metric} is worse than that of the baseline by {-gate.value:.4g}, and not better by {wanted:g}"
    return f"{gate.metric} is better than that of the baseline by {gate.value:.4g}, and not by {wanted:g}"
