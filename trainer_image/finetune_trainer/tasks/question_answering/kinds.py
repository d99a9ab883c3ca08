"""Questions with and without an answer: how many there are, and which metrics need them. Common to all forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.prepare.rows import check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.tasks.question_answering.rows import OpenQuestions, QuestionRows
from finetune_trainer.tasks.question_answering.scoring import weights

ANSWERED, UNANSWERED = "answer", "no answer"
"""Keys of SplitReport.label_counts."""

LISTED = 8
"""Rows that a note names."""


class DataSets:
    """Checks each dataset as a whole, and counts the questions of the splits by kind."""

    def __init__(self, spec: FineTuneJobSpec) -> None:
        self._spec = spec
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._names = [spec.dataset.columns.name(field) for field in QuestionRows.fields]
        self._schema = QuestionRows(*self._names)
        self._answered = 0
        self._trained = False
        self._open = False
        """Whether a teacher writes the answers of the dataset that is read."""

    def start_open(self, files: Sequence[DataFile]) -> OpenQuestions:
        """The row schema of the next dataset, whose rows may lack their answers.

        Raises:
            StageFailure: BadData when the header of a file lacks a column.
        """
        schema = OpenQuestions(QuestionRows(*self._names))
        check_headers(files, schema)
        self._open = True
        return schema

    def start(self, files: Sequence[DataFile]) -> QuestionRows:
        """The row schema of the next dataset.

        Raises:
            StageFailure: BadData when the header of a file lacks a column.
        """
        self._schema = QuestionRows(*self._names)
        self._answered, self._open = 0, False
        check_headers(files, self._schema)
        return self._schema

    def see(self, answers: Sequence[str]) -> None:
        """Count the questions with an answer; each is a JSON list of texts."""
        self._answered += sum(listed != "[]" for listed in answers)

    def end(self, uri: str) -> None:
        """Check that the rows have the column of the answers, and that a training question has one.

        Raises:
            StageFailure: BadData when that is not so.
        """
        if self._open:
            self._trained = True
            return
        column = self._schema.needed[2]
        if not self._schema.answered:
            raise StageFailure(
                Reason.BAD_DATA,
                f"No row of {uri} has the column '{column}': set dataset.columns.answers to the right column",
            )
        if not self._trained and not self._answered:
            raise StageFailure(
                Reason.BAD_DATA, f"No question of {uri} has an answer in column '{column}': add answers to learn"
            )
        self._trained = True

    def kind_of(self, answers: str, split: str) -> str:
        """The kind of a question of ``split``, which is counted; ``answers`` is a JSON list of texts."""
        kind = UNANSWERED if answers == "[]" else ANSWERED
        self._kinds[split, kind] += 1
        return kind

    def count(self, split: str, kind: str) -> int:
        """The questions of a kind in a split."""
        return self._kinds[split, kind]

    def check_metrics(self) -> None:
        """Check that the test split has questions of a kind for each metric that the job names.

        Raises:
            StageFailure: BadData when there are none.
        """
        for metric, kind in ((Metric.NO_ANSWER_F1, UNANSWERED), (Metric.HAS_ANSWER_F1, ANSWERED)):
            if metric in _named(self._spec) and not self.count(TEST, kind):
                raise StageFailure(
                    Reason.BAD_DATA,
                    f"The evaluation cannot measure {metric}, because the test split has no question with {kind}: add "
                    f"such questions, or remove {metric} from evaluation.metrics and evaluation.gates",
                )


def measured_metrics(spec: FineTuneJobSpec, references: Sequence[Sequence[str]]) -> list[Metric]:
    """The metrics to measure on the test split: without the defaults for which it has no question.

    Args:
        spec: The spec of the job.
        references: The answers to each test question.

    Raises:
        StageFailure: BadData when there is no question for a metric that the spec names.
    """
    empty = [metric for metric in spec.metrics if not weights(metric, references).any()]
    if missing := [metric for metric in empty if metric in _named(spec)]:
        raise StageFailure(
            Reason.BAD_DATA,
            f"The test split has no question that {missing[0]} measures: add such questions, or remove {missing[0]} "
            "from evaluation.metrics and evaluation.gates",
        )
    return [metric for metric in spec.metrics if metric not in empty]


def listed(names: Sequence[str]) -> str:
    """The first of ``names`` for a note."""
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def _named(spec: FineTuneJobSpec) -> set[Metric]:
    """The metrics that the job names."""
    return {*(spec.evaluation.metrics or ()), *spec.evaluation.gated}
