"""What comes out of running both models, before gates and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.loading import Hardware
from finetune_trainer.prepared import DataReport

SPLIT = "test"


@dataclass(frozen=True)
class EvaluationInputs:
    """What both tasks' evaluations need."""

    spec: FineTuneJobSpec
    base: Path
    """Directory of the base model."""
    trained: Path
    """Directory of the adapter or the tuned model."""
    prepared: Path
    """Directory of the prepared data."""
    data: DataReport
    hardware: Hardware
    reporter: Reporter


@dataclass(frozen=True)
class Comparison:
    """Baseline and tuned model on the test split."""

    baseline: BaselineKind
    details: dict[str, Any]
    """How the baseline was made, for report and provenance."""
    metrics: tuple[MetricResult, ...]
    predictions: list[dict[str, Any]]
    """One object a test example, in the split's order: source, text or prompt, label or reference, baseline, tuned."""


class ExampleCounter:
    """Says how many examples of an activity are done."""

    def __init__(self, reporter: Reporter, activity: str, total: int) -> None:
        self._reporter = reporter
        self._activity = activity
        self._total = total
        self._done = 0
        self.add(0)

    def add(self, examples: int) -> None:
        """Count examples; 0 is a sign of life."""
        self._done += examples
        self._reporter.progress(self._activity, done=self._done, total=self._total, unit="examples")


def metric_result(name: Metric, baseline: float, tuned: float, interval: tuple[float, float]) -> MetricResult:
    """A metric of both models with the interval of its change."""
    return MetricResult(
        name=name,
        baseline=baseline,
        tuned=tuned,
        change=tuned - baseline,
        interval=interval,
        higher_is_better=name.higher_is_better,
    )
