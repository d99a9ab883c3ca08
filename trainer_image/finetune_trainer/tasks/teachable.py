"""What a task has whose rows a teacher can answer in writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from finetune_trainer.prepare.rows import Example, RowSchema
from finetune_trainer.prepare.sources import DataFile

if TYPE_CHECKING:
    from finetune_trainer.endpoint.messages import Question
    from finetune_trainer.evaluate.comparison import EvaluationInputs


@runtime_checkable
class Teachable(Protocol):
    """A `Preparation` of rows whose answers a teacher can write."""

    def open_schema(self, files: Sequence[DataFile]) -> RowSchema:
        """As ``row_schema``, for rows that may lack the answer; their examples then have
        `prepare.rows.UNANSWERED`."""

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        """``examples`` as the model of the job reads them: cut to its length, and with `UNANSWERED` for the answer."""

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        """What the teacher is asked: what the model of the job reads before the answer."""

    def with_answer(self, example: Example, answer: str) -> Example:
        """``example`` with another answer, as it is written, with white space at both ends.

        Raises:
            BadRow: It is no answer to learn.
        """


@runtime_checkable
class ScoresAnswers(Protocol):
    """A `TaskForm` of a task that a teacher can answer in writing; its preparation is `Teachable`."""

    def answer_scores(self, inputs: EvaluationInputs, answers: Sequence[str]) -> Mapping[str, float]:
        """The metrics of answers to the test prompts, by name, without those that need the probabilities of a model.

        Args:
            inputs: Inputs of the evaluation.
            answers: One to each test row, as it is written; empty where none can be used.

        Raises:
            StageFailure: As `TaskForm.compare`.
        """
