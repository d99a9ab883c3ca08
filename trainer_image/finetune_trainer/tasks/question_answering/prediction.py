"""QuestionAnswering with an encoder: answers to questions about texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from finetune_api import layout
from finetune_api.evaluation import EvaluationFile, SpanDecoding
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.problems import BadRow, row_explained
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.question_answering.answering import Predicted, Questions, SpanRunner
from finetune_trainer.tasks.question_answering.preparation import window_tokeniser
from finetune_trainer.tasks.question_answering.rows import ID, Question, QuestionRows

_NO_ANSWER = "(no answer)"


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    listed = asked(inputs, rows)
    tokenizer = load_base_tokenizer(inputs.trained, "the artifact")
    encoded = window_tokeniser(inputs.spec, tokenizer, inputs.data.max_sequence_length).encode(listed)
    for index, problem in sorted(encoded.problems.items()):
        with row_explained(index + 1):
            raise problem
    questions, decoding = Questions(pa.table(dict(encoded.columns))), _decoding(inputs)
    model = inputs.method.tuned(inputs.load, inputs.base, inputs.trained)
    best = SpanRunner(inputs).best_spans(model, "tuned", questions, decoding.longest_answer, "answering questions")
    predicted = Predicted.of(questions, best, decoding.threshold)
    return [
        prediction(question, text, span=span and list(span))
        for question, text, span in zip(listed, predicted.texts, predicted.spans, strict=True)
    ]


def asked(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Question]:
    """The questions in rows, which are objects with the columns of the data.

    Raises:
        StageFailure: BadData for an invalid row.
    """
    questions = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            questions.append(_question(inputs, row))
    return questions


def prediction(question: Question, text: str, **details: Any) -> Prediction:
    """The prediction of an answer; ``text`` is empty for none."""
    document = {**({"id": question.id} if question.id else {}), "question": question.question, "answer": text}
    return Prediction(text or _NO_ANSWER, document | details)


def _question(inputs: EvaluationInputs, row: object) -> Question:
    columns = inputs.spec.dataset.columns
    question, context, answers = (columns.name(field) for field in QuestionRows.fields)
    if not isinstance(row, Mapping):
        raise BadRow(f"a question needs its context; write an object with '{question}' and '{context}'")
    kept = {name: row[name] for name in (question, context, ID) if name in row}
    return QuestionRows(question, context, answers).example(kept)


def _decoding(inputs: EvaluationInputs) -> SpanDecoding:
    evaluation = EvaluationFile.model_validate_json((inputs.trained / layout.EVALUATION).read_bytes())
    assert evaluation.span_decoding is not None
    return evaluation.span_decoding
