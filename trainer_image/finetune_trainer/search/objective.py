"""The score of a prompt: the first metric of the job, of the answers to validation examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Metric
from finetune_trainer.evaluate.answer_scoring import AnswerForm, score
from finetune_trainer.evaluate.classification import Classified, score_of
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.search.asked import Asked, Cost, OnExamples
from finetune_trainer.search.prompt import Prompt, Rows
from finetune_trainer.search.record import Record


class Objective:
    """Scores prompts on the same examples."""

    def __init__(self, table: pa.Table, inputs: EvaluationInputs, form: AnswerForm | None) -> None:
        """
        Args:
            table: Rows of the validation split.
            inputs: Inputs of the evaluation.
            form: How answers are measured, for a task whose answers are texts.
        """
        spec, data = inputs.spec, inputs.data
        self.metric: Metric = spec.metrics[0]
        self.labels: Sequence[str] = data.labels
        self.rows = Rows.of_table(table, spec.task.type.row.placeholders, data.labels)
        self._gold = np.asarray(table["label"].to_numpy(), np.int64) if form is None else np.empty(0, np.int64)
        self._scoring = form.scoring_for(inputs, table) if form else None

    def new_record(self) -> Record:
        """The record of a search that begins."""
        return Record(metric=self.metric, maximize=self.metric.higher_is_better, examples=len(self.rows))

    @property
    def inputs(self) -> list[dict[str, str]]:
        return self.rows.inputs

    def value(self, asked: Asked, prompt: Prompt, on_examples: OnExamples) -> tuple[float, Cost]:
        """The score of ``prompt`` and what it has cost.

        Raises:
            DoesNotFit: The model has no room for the prompt.
            StageFailure: BadData when the metric is not defined on the examples.
        """
        found: float | None
        if self._scoring is None:
            output, cost = asked.ranked(prompt, self.inputs, self.labels, on_examples)
            found = score_of(self.metric, self._gold, Classified.single_or_none(output), len(self.labels))
        else:
            answers, cost = asked.answers(prompt, self.inputs, on_examples)
            read = [(self._scoring.read(index, answer),) for index, answer in enumerate(answers)]
            found = score(self._scoring, self.metric, read)
        if found is None:
            raise StageFailure(
                Reason.BAD_DATA,
                f"{self.metric} is not defined on the {len(self.rows)} validation examples that prompts are compared "
                "on: add validation rows, or put another metric first in evaluation.metrics",
            )
        return found, cost
