"""What a task that generates text says about its prompts, its metrics and its rows of predictions.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric
from finetune_trainer.evaluate.metrics import ANSWER_METRICS, Floats
from finetune_trainer.evaluate.prompts import Prompts


class AnswerScoring(Protocol):
    """The metrics of generated answers to the rows of a split, and what predictions.jsonl says about them."""

    @property
    def corpora(self) -> Mapping[Metric, CorpusMetric]:
        """Metrics of all answers together; those of one answer only tell where the answers differ."""

    def metrics(self) -> Sequence[Metric]:
        """The metrics to measure.

        Raises:
            StageFailure: BadData when the split has no row that a metric of the spec measures.
        """

    def read(self, answer: str) -> str:
        """A generated answer as the metrics and the report see it."""

    def values(self, metric: Metric, answers: Sequence[str]) -> Floats:
        """The metric of each answer, of shape (examples,)."""

    def weights(self, metric: Metric) -> Floats:
        """How much each row counts in a metric, of shape (examples,)."""

    def row(self, index: int, baseline: str | None, tuned: str | None) -> dict[str, Any]:
        """The row of predictions.jsonl of an example, without its scores."""


@dataclass(frozen=True)
class AnswerForm:
    """A task on models of a family that generate their answers."""

    prompts: type[Prompts]
    scoring: Callable[[pa.Table, FineTuneJobSpec], AnswerScoring]


class SingleReference:
    """Implements `AnswerScoring` for rows with one right answer."""

    def __init__(self, table: pa.Table, spec: FineTuneJobSpec) -> None:
        self._spec = spec
        self._sources, self._prompts, self._references = (
            table[name].to_pylist() for name in ("source", "prompt", "reference")
        )
        language = spec.task.target_language
        self.corpora = {metric: corpus for metric in spec.metrics if (corpus := corpus_metric(metric, language))}

    def metrics(self) -> Sequence[Metric]:
        return self._spec.metrics

    def read(self, answer: str) -> str:
        return answer

    def values(self, metric: Metric, answers: Sequence[str]) -> Floats:
        value = self.corpora[metric].of_one if metric in self.corpora else ANSWER_METRICS[metric]
        return np.array([value(*pair) for pair in zip(answers, self._references, strict=True)])

    def weights(self, metric: Metric) -> Floats:
        return np.ones(len(self._references))

    def row(self, index: int, baseline: str | None, tuned: str | None) -> dict[str, Any]:
        return {
            "source": self._sources[index],
            "prompt": self._prompts[index],
            "reference": self._references[index],
            "baseline": baseline,
            "tuned": tuned,
        }
