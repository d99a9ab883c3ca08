"""What a task that generates text says about its prompts, its metrics and its rows of predictions.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric
from finetune_trainer.evaluate.metrics import ANSWER_METRICS, Floats, Ints, ratio
from finetune_trainer.modelling.tokenizer import Decode, plain_decode

if TYPE_CHECKING:
    from finetune_trainer.evaluate.comparison import EvaluationInputs
    from finetune_trainer.evaluate.prompts import Prompts

Samples = Sequence[str]
"""The answers of a model to one prompt: one, unless evaluation.generation.samples asks for more."""


class AnswerScoring(Protocol):
    """The metrics of generated answers to the rows of a split, and what predictions.jsonl says about them."""

    @property
    def corpora(self) -> Mapping[Metric, CorpusMetric]:
        """Metrics of all answers together; those of one answer only tell where the answers differ."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What evaluation.json says about the metrics, once they are measured."""

    def metrics(self) -> Sequence[Metric]:
        """The metrics to measure.

        Raises:
            StageFailure: BadData when the split has no row that a metric of the spec measures.
        """

    def read(self, index: int, answer: str) -> str:
        """A generated answer to the prompt of a row as the metrics and the report see it."""

    def values(self, metric: Metric, answers: Sequence[Samples]) -> Floats:
        """The metric of the answers to each prompt, of shape (examples,)."""

    def statistics(self, metric: Metric, answers: Sequence[Samples]) -> Ints:
        """The statistics of the answers to each prompt for one of ``corpora``, of shape (examples, statistics)."""

    def weights(self, metric: Metric) -> Floats:
        """How much each row counts in a metric, of shape (examples,)."""

    def row(self, index: int, baseline: Samples | None, tuned: Samples | None) -> dict[str, Any]:
        """The row of predictions.jsonl of an example, without its scores."""


@dataclass(frozen=True)
class AnswerForm:
    """A task on models of a family that generate their answers."""

    prompts: type[Prompts]
    scoring: Callable[[pa.Table, FineTuneJobSpec], AnswerScoring]
    decode: Callable[[Any], Decode] = field(default=plain_decode)
    """How a tokenizer decodes answers."""
    keeps_space: bool = False
    """Whether white space around an answer is content."""

    def scoring_for(self, inputs: EvaluationInputs, table: pa.Table) -> AnswerScoring:
        """The metrics of the answers to the rows of ``table``, where programs may be run."""
        return self.scoring(table, inputs.spec)

    def details(self, inputs: EvaluationInputs, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What evaluation.json says about ``predictions``, the rows of predictions.jsonl."""
        return {}


def score(scoring: AnswerScoring, metric: Metric, answers: Sequence[Samples]) -> float | None:
    """A metric of all answers together; None if no example has a part in it."""
    if corpus := scoring.corpora.get(metric):
        return corpus.score(scoring.statistics(metric, answers).sum(axis=0))
    weights = scoring.weights(metric)
    return ratio(scoring.values(metric, answers), weights) if weights.any() else None


def only(answers: Samples | None) -> str | None:
    """The answer of a task that generates one to each prompt; None if it has generated none."""
    return None if answers is None else answers[0]


class SingleReference:
    """Implements `AnswerScoring` for rows with one right answer."""

    def __init__(self, table: pa.Table, spec: FineTuneJobSpec) -> None:
        self._spec = spec
        self._sources, self._prompts, self._references = (
            table[name].to_pylist() for name in ("source", "prompt", "reference")
        )
        language = spec.task.target_language
        self.corpora = {metric: corpus for metric in spec.metrics if (corpus := corpus_metric(metric, language))}

    @property
    def details(self) -> Mapping[str, Any]:
        return signatures(self.corpora)

    def metrics(self) -> Sequence[Metric]:
        return self._spec.metrics

    def read(self, index: int, answer: str) -> str:
        return answer

    def values(self, metric: Metric, answers: Sequence[Samples]) -> Floats:
        value = self.corpora[metric].of_one if metric in self.corpora else ANSWER_METRICS[metric]
        return np.array(
            [value(answer, reference) for (answer,), reference in zip(answers, self._references, strict=True)]
        )

    def statistics(self, metric: Metric, answers: Sequence[Samples]) -> Ints:
        return self.corpora[metric].statistics([answer for (answer,) in answers], self._references)

    def weights(self, metric: Metric) -> Floats:
        return np.ones(len(self._references))

    def row(self, index: int, baseline: Samples | None, tuned: Samples | None) -> dict[str, Any]:
        return {
            "source": self._sources[index],
            "prompt": self._prompts[index],
            "reference": self._references[index],
            "baseline": only(baseline),
            "tuned": only(tuned),
        }


def signatures(corpora: Mapping[Metric, CorpusMetric]) -> dict[str, Any]:
    """The signatures of sacreBLEU for evaluation.json."""
    found = {str(metric): corpus.signature for metric, corpus in corpora.items()}
    return {"signatures": found} if found else {}
