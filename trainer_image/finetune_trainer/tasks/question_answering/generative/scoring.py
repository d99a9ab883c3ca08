"""Metrics of generated answers to questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.evaluate.answer_scoring import Samples, only
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric
from finetune_trainer.evaluate.metrics import Floats, Ints
from finetune_trainer.tasks.question_answering.generative.texts import is_no_answer
from finetune_trainer.tasks.question_answering.kinds import measured_metrics
from finetune_trainer.tasks.question_answering.scoring import exact_match, squad_f1, weights


class QuestionScoring:
    """Implements `finetune_trainer.evaluate.answer_scoring.AnswerScoring` for rows with any number of answers."""

    def __init__(self, table: pa.Table, spec: FineTuneJobSpec) -> None:
        self._spec = spec
        self._rows = table.select(["source", "id", "question", "context", "answer_spans"]).to_pylist()
        self._references: list[list[str]] = [json.loads(answers) for answers in table["answers"].to_pylist()]

    @property
    def corpora(self) -> Mapping[Metric, CorpusMetric]:
        return {}

    @property
    def details(self) -> Mapping[str, Any]:
        return {}

    def metrics(self) -> Sequence[Metric]:
        return measured_metrics(self._spec, self._references)

    def read(self, index: int, answer: str) -> str:
        """Empty if the model says that there is no answer."""
        return "" if is_no_answer(answer) else answer.strip()

    def values(self, metric: Metric, answers: Sequence[Samples]) -> Floats:
        value = exact_match if metric is Metric.EXACT_MATCH else squad_f1
        return np.array([value(answer, golds) for (answer,), golds in zip(answers, self._references, strict=True)])

    def statistics(self, metric: Metric, answers: Sequence[Samples]) -> Ints:
        raise KeyError(metric)  # There are no metrics of all answers together.

    def weights(self, metric: Metric) -> Floats:
        return weights(metric, self._references)

    def row(self, index: int, baseline: Samples | None, tuned: Samples | None) -> dict[str, Any]:
        texts = only(baseline), only(tuned)
        row = self._rows[index]
        ends = row["answer_spans"]
        return {
            "source": row["source"],
            **({"id": row["id"]} if row["id"] else {}),
            "question": row["question"],
            "context": row["context"],
            "answers": self._references[index],
            "answerSpans": list(zip(ends[::2], ends[1::2], strict=True)),
            "baseline": texts[0],
            "baselineSpan": span_of(texts[0], row["context"]),
            "tuned": texts[1],
            "tunedSpan": span_of(texts[1], row["context"]),
        }


def span_of(answer: str | None, context: str) -> tuple[int, int] | None:
    """The first place of a generated answer in the context, for the report; None if it does not stand there."""
    if not answer:
        return None
    start = context.find(answer)
    if start < 0 and len(context) == len(context.lower()):
        start = context.lower().find(answer.lower())
    return None if start < 0 else (start, start + len(answer))
