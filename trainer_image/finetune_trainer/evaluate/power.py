"""Whether a test split is large enough to show the improvement that a gate asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from finetune_api.evaluation import MetricResult
from finetune_api.spec import EvaluationSpec, Metric

FEWEST = 10
"""The fewest examples that a verdict can rest on: the bootstrap is too sure of fewer."""
_OUTSIDE = 0.025
"""Share of the resamples below a 95 % interval."""
_POWER = ((1.96 + 0.84) / 1.96) ** 2
"""How many times as many examples as for an interval as wide as a change show that change in 80 % of all test splits.
With those that make the interval just as wide, half of the test splits show it."""


def fewest_examples(improvement: float) -> int:
    """The fewest examples for which the bootstrap's 95 % interval of an improvement excludes 0, if none gets worse.

    Then fewer than 2.5 % of the resamples have no example that got better. If some get worse as well, it takes more.

    Args:
        improvement: Share of the examples that get better, above 0 and at most 1.
    """
    return 1 if improvement == 1 else math.ceil(math.log(_OUTSIDE) / math.log1p(-improvement))


def notes_before(spec: EvaluationSpec, examples: int) -> list[str]:
    """Clauses about gates that a test split of ``examples`` can hardly decide, whatever the model learns."""
    notes = []
    for metric, improvement in _asked(spec):
        if metric.row.decisions and examples < (needed := fewest_examples(min(improvement, 1.0))):
            notes.append(
                f"{examples:,} test examples are too few to show the improvement of {improvement:g} in {metric} that a "
                f"gate asks for: {needed:,} are the fewest, if none gets worse"
            )
    return notes


def notes_after(spec: EvaluationSpec, metrics: Sequence[MetricResult], examples: int) -> list[str]:
    """Clauses about intervals that are too sure, and gates on less than the uncertainty of the measured change."""
    results = {metric.name: metric for metric in metrics}
    notes = []
    if examples < FEWEST:
        notes.append(
            f"{examples:,} test examples are few: a bootstrap of so few is too sure of its intervals, so do not decide "
            "by the verdict alone"
        )
    for metric, improvement in _asked(spec):
        low, high = results[metric].interval
        width = (high - low) / 2
        if width > improvement:
            needed = _rounded_up(_POWER * examples * (width / improvement) ** 2)
            notes.append(
                f"{examples:,} test examples show a change of {metric} to ±{width:.2g}, too coarse for the gate's "
                f"{improvement:g}: about {needed:,} would show it four times out of five"
            )
    return notes


def _asked(spec: EvaluationSpec) -> Iterator[tuple[Metric, float]]:
    for gate in spec.gates:
        # Those of lm-eval are measured on other examples.
        if isinstance(gate.metric, Metric) and gate.minimum_improvement is not None and gate.minimum_improvement > 0:
            yield gate.metric, gate.minimum_improvement


def _rounded_up(number: float) -> int:
    """``number`` with two significant digits: an estimate is no more exact."""
    step = int(10 ** max(0, len(str(math.ceil(number))) - 2))
    return math.ceil(number / step) * step
