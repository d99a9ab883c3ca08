"""QuestionAnswering with a model that generates its answers, in the prepare stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint import messages
from finetune_trainer.pairs.encoder import PairEncoder
from finetune_trainer.prepare.arrays import TOKENS, integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.question_answering.generative.cutting import around, head, largest
from finetune_trainer.tasks.question_answering.generative.texts import instruction, target
from finetune_trainer.tasks.question_answering.kinds import DataSets, listed
from finetune_trainer.tasks.question_answering.positions import Span, place
from finetune_trainer.tasks.question_answering.rows import OpenQuestions, Question, QuestionRows, named
from finetune_trainer.tasks.question_answering.teaching import asked, with_answer

Source = Callable[[str, str], str]
"""What the model reads, made of a question and a context."""

_TRAIN = "train"


@dataclass(frozen=True, slots=True)
class _Row:
    """A valid question."""

    question: Question
    target: str
    context: str
    """The context as far as there is room for it."""
    spans: tuple[Span, ...]
    """Where answers stand in the whole context."""
    absent: int
    """Answers that do not stand there word for word."""

    @property
    def outside(self) -> bool:
        """Whether all answers stand in the part that is cut off."""
        return bool(self.spans) and all(span.end > len(self.context) for span in self.spans)


class GenerativePreparation:
    """Implements `finetune_trainer.tasks.base.Preparation` and `finetune_trainer.tasks.teachable.Teachable`.

    A context for which there is no room loses its end, which does not depend on the answers. Only in training rows it
    is cut around the answer instead, where that would otherwise be lost.
    """

    labels: tuple[str, ...] = ()
    rows = ""

    def __init__(self, spec: FineTuneJobSpec, encoder: PairEncoder, source: Source) -> None:
        self._spec = spec
        self._encoder = encoder
        self._source = source
        self._sets = DataSets(spec)
        self.prefix = encoder.prefix
        self._absent: dict[str, int] = {}
        self._moved = self._lost = 0

    @property
    def fields(self) -> list[pa.Field]:
        return [
            *self._encoder.fields,
            *(pa.field(name, pa.string()) for name in ("question", "context", "answers", "id")),
            pa.field("answer_spans", TOKENS),
            pa.field("absent", pa.int32()),
            pa.field("outside", pa.bool_()),
        ]

    @property
    def answers(self) -> AnswerTokens:
        return self._encoder.answers

    def row_schema(self, files: Sequence[DataFile]) -> QuestionRows:
        return self._sets.start(files)

    def open_schema(self, files: Sequence[DataFile]) -> OpenQuestions:
        return self._sets.start_open(files)

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        questions = [example for example in examples if isinstance(example, Question)]
        contexts = zip(questions, self.cut(questions), strict=True)
        return [replace(question, context=cut or question.context, answers=()) for question, cut in contexts]

    def questions(self, examples: Sequence[Example]) -> list[messages.Question]:
        cut = [example for example in self.asked(examples) if isinstance(example, Question)]
        return [asked(instruction(self._spec), one.question, one.context) for one in cut]

    def with_answer(self, example: Example, answer: str) -> Question:
        assert isinstance(example, Question)
        return with_answer(example, answer)

    def encode(self, examples: Sequence[Example]) -> Encoded:
        questions = [example for example in examples if isinstance(example, Question)]
        problems: dict[int, BadRow] = {}
        contexts = self.cut(questions)
        rows: dict[int, _Row] = {}
        for index, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            try:
                rows[index] = _row(question, context)
            except BadRow as problem:
                problems[index] = named(problem, question.id)
        positions = list(rows)
        sources = [self._source(row.question.question, row.context) for row in rows.values()]
        encoded = self._encoder.encode(sources, [row.target for row in rows.values()])
        for offset, found in encoded.problems.items():
            problems[positions[offset]] = named(found, rows[positions[offset]].question.id)
        valid = [rows[index] for offset, index in enumerate(positions) if offset not in encoded.problems]
        columns = encoded.columns | _columns(valid)
        self._sets.see(columns["answers"].to_pylist())
        truncated = np.array([row.context != row.question.context.rstrip() for row in valid], np.bool_)
        return Encoded(columns, truncated, problems, tokens=encoded.tokens)

    def cut(self, questions: Sequence[Question]) -> list[str | None]:
        """The beginning of each context, as far as there is room; None if there is none beside the question."""

        def source(row: int, size: int) -> str:
            return self._source(questions[row].question, head(questions[row].context, size))

        sizes = largest([len(question.context) for question in questions], source, self._encoder.fit)
        cut = zip(questions, sizes, strict=True)
        return [(head(question.context, size) or None) if size > 0 else None for question, size in cut]

    def end_data_set(self, uri: str) -> None:
        """Check that the rows have the column of the answers, and that a training question has one."""
        self._sets.end(uri)

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        for row in batch.select(["answers", "absent", "source", "id"]).to_pylist():
            label_counts[self._sets.kind_of(row["answers"], split)] += 1
            if row["absent"]:
                where = f"{row['source']} ({row['id'][:60]})" if row["id"] else row["source"]
                self._absent[where] = row["absent"]
        outside = np.flatnonzero(batch["outside"].to_numpy(zero_copy_only=False)).tolist()
        if split != _TRAIN:
            self._lost += len(outside)
            return batch
        self._moved += len(outside)
        return self._around_answers(batch, outside) if outside else batch

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        """Raises:
        StageFailure: BadData when evaluation.metrics needs questions of a kind that the test split has none of.
        """
        self._sets.check_metrics()
        notes = []
        if self._absent:
            count = sum(self._absent.values())
            notes.append(
                f"{count:,} answers do not stand in their contexts word for word: {listed(list(self._absent))}"
            )
        if self._lost:
            notes.append(
                f"{self._lost:,} validation and test questions have their answer in the part of the context for which "
                "there is no room, so no model finds it; raise training.maxSequenceLength if the model supports more"
            )
        if self._moved:
            notes.append(f"contexts of training questions that are cut around their answer: {self._moved:,}")
        return notes

    def _around_answers(self, batch: pa.RecordBatch, outside: Sequence[int]) -> pa.RecordBatch:
        """``batch`` with the contexts of the rows ``outside`` cut around the first of their answers."""
        rows = batch.select(["question", "context", "reference", "answer_spans"]).take(pa.array(outside)).to_pylist()
        spans = [Span(*row["answer_spans"][:2]) for row in rows]

        def source(row: int, size: int) -> str:
            return self._source(rows[row]["question"], around(rows[row]["context"], spans[row], size))

        sizes = largest([len(row["context"]) for row in rows], source, self._encoder.fit)
        fitting = [row for row, size in enumerate(sizes) if size >= 0]  # An answer may be longer than the room.
        encoded = self._encoder.encode(
            [source(row, sizes[row]) for row in fitting], [rows[row]["reference"] for row in fitting]
        )
        replaced = [outside[row] for offset, row in enumerate(fitting) if offset not in encoded.problems]
        for name, values in encoded.columns.items():
            column = batch.column(name).to_pylist()
            for index, value in zip(replaced, values.to_pylist(), strict=True):
                column[index] = value
            field = batch.schema.get_field_index(name)
            batch = batch.set_column(field, batch.schema.field(field), pa.array(column, batch.schema.field(field).type))
        return batch


def _row(question: Question, context: str | None) -> _Row:
    """
    Raises:
        BadRow: There is no room for the context, or an answer means that there is none.
    """
    if context is None:
        raise BadRow(
            "beside the question there is no room for its context; shorten the question, or raise "
            "training.maxSequenceLength if the model supports more"
        )
    learned = target(question)
    try:
        placed = place(question.context, question.answers)
    except BadRow:  # An answer in other words can be learned as well.
        return _Row(question, learned, context, (), len(question.answers))
    return _Row(question, learned, context, placed.spans, placed.absent)


def _columns(rows: Sequence[_Row]) -> dict[str, pa.Array]:
    answers = [json.dumps([answer.text for answer in row.question.answers], ensure_ascii=False) for row in rows]
    return {
        "question": texts([row.question.question for row in rows]),
        "context": texts([row.question.context for row in rows]),
        "answers": texts(answers),
        "id": texts([row.question.id for row in rows]),
        "answer_spans": token_lists([[end for span in row.spans for end in (span.start, span.end)] for row in rows]),
        "absent": integers(np.array([row.absent for row in rows], np.int32)),
        "outside": pa.array([row.outside for row in rows], pa.bool_()),
    }
