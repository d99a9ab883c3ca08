"""QuestionAnswering with an encoder in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint import messages
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.question_answering.kinds import UNANSWERED, DataSets, listed
from finetune_trainer.tasks.question_answering.rows import OpenQuestions, Question, QuestionRows
from finetune_trainer.tasks.question_answering.teaching import EXTRACT, asked, with_extract
from finetune_trainer.tasks.question_answering.windows import DEFAULT_OVERLAP, WindowTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_REMARKS = (
    "not at answer_start, and moved to the only place of their text",
    "without answer_start and in several places; the first is learned",
    "in no place, beside another that is; they count in the evaluation only",
)


class ExtractivePreparation:
    """Implements `finetune_trainer.tasks.base.Preparation` and `finetune_trainer.tasks.teachable.Teachable`."""

    labels: tuple[str, ...] = ()
    answers = AnswerTokens()
    rows = ""
    prefix = ""

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._spec = spec
        self._length = max_length
        self._overlap = _overlap(spec)
        self._tokeniser = window_tokeniser(spec, tokenizer, max_length)
        self._sets = DataSets(spec)
        self._remarks: tuple[dict[str, int], ...] = tuple({} for _ in _REMARKS)
        self._long = self._windows = self._cut = 0

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    def row_schema(self, files: Sequence[DataFile]) -> QuestionRows:
        return self._sets.start(files)

    def open_schema(self, files: Sequence[DataFile]) -> OpenQuestions:
        return self._sets.start_open(files)

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        return [replace(example, answers=()) for example in examples if isinstance(example, Question)]

    def questions(self, examples: Sequence[Example]) -> list[messages.Question]:
        questions = [example for example in examples if isinstance(example, Question)]
        return [asked(EXTRACT, one.question, one.context) for one in questions]

    def with_answer(self, example: Example, answer: str) -> Question:
        assert isinstance(example, Question)
        return with_extract(example, answer)

    def encode(self, examples: Sequence[Example]) -> Encoded:
        encoded = self._tokeniser.encode(examples)
        self._sets.see(encoded.columns["answers"].to_pylist())
        return encoded

    def end_data_set(self, uri: str) -> None:
        """Check that the rows have the column of the answers, and that a training question has one."""
        self._sets.end(uri)

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        rows = batch.select(["answers", "remarks", "window_lengths", "starts", "source", "id"]).to_pylist()
        for row in rows:
            label_counts[self._sets.kind_of(row["answers"], split)] += 1
            where = f"{row['source']} ({row['id'][:60]})" if row["id"] else row["source"]
            for found, count in zip(self._remarks, row["remarks"], strict=True):
                if count:
                    found[where] = count
            windows = len(row["window_lengths"])
            self._long += windows > 1
            self._windows += windows if windows > 1 else 0
            self._cut += row["starts"].count(IGNORED_LABEL)
        return batch

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        """Raises:
        StageFailure: BadData when evaluation.metrics needs questions of a kind that the test split has none of.
        """
        self._sets.check_metrics()
        notes = [
            f"{sum(found.values()):,} answers are {what}: {listed(list(found))}"
            for found, what in zip(self._remarks, _REMARKS, strict=True)
            if found
        ]
        if (unanswered := self._sets.count(TEST, UNANSWERED)) and not self._sets.count("validation", UNANSWERED):
            notes.append(
                f"every question gets an answer, also the {unanswered:,} of the test split without one, because the "
                "validation split has no such question, by which the threshold is chosen: add some to it"
            )
        if self._long:
            cut = f"; {self._cut:,} of them cut an answer and are not learned" if self._cut else ""
            notes.append(
                f"{self._long:,} contexts are longer than the {self._length} tokens of a row and were divided into "
                f"{self._windows:,} windows that overlap by at most {self._overlap} tokens{cut}"
            )
        return notes


def window_tokeniser(spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> WindowTokeniser:
    """The windows that a job reads contexts in."""
    return WindowTokeniser(tokenizer, max_length, _overlap(spec))


def _overlap(spec: FineTuneJobSpec) -> int:
    return DEFAULT_OVERLAP if spec.task.window_overlap is None else spec.task.window_overlap
