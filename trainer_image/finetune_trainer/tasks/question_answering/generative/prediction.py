"""Generated answers to questions about texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api import layout
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.json_files import read_json
from finetune_trainer.pairs.prediction import PLACEHOLDER, seq2seq_answers
from finetune_trainer.pairs.seq2seq import load_pair_tokenizer
from finetune_trainer.prepare.problems import BadRow, row_explained
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.instruction_tuning.prediction import answers, chat_tokenizer
from finetune_trainer.tasks.question_answering.generative.forms import causal_preparation, seq2seq_preparation
from finetune_trainer.tasks.question_answering.generative.preparation import GenerativePreparation
from finetune_trainer.tasks.question_answering.generative.texts import is_no_answer, marked, message
from finetune_trainer.tasks.question_answering.prediction import asked, prediction
from finetune_trainer.tasks.question_answering.rows import Question


def predict_causal(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    questions = asked(inputs, rows)
    tokenizer = chat_tokenizer(inputs)
    preparation, encoder = causal_preparation(inputs.spec, tokenizer, inputs.data.max_sequence_length)
    contexts = _contexts(preparation, questions)
    chats = [
        encoder.conversation(message(question.question, context), PLACEHOLDER)
        for question, context in zip(questions, contexts, strict=True)
    ]
    return _predictions(questions, [answer for _, answer in answers(inputs, tokenizer, chats)])


def predict_seq2seq(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    questions = asked(inputs, rows)
    tokenizer = load_pair_tokenizer(inputs.trained, inputs.spec, None)
    config = read_json(inputs.base / layout.MODEL_CONFIG)
    preparation, encoder = seq2seq_preparation(inputs.spec, tokenizer, inputs.data.max_sequence_length, config)
    contexts = _contexts(preparation, questions)
    sources = [marked(question.question, context) for question, context in zip(questions, contexts, strict=True)]
    return _predictions(questions, seq2seq_answers(inputs, encoder, sources))


def _contexts(preparation: GenerativePreparation, questions: Sequence[Question]) -> list[str]:
    contexts = []
    for number, context in enumerate(preparation.cut(questions), 1):
        with row_explained(number):
            if context is None:
                raise BadRow("beside the question there is no room for its context; shorten the question")
            contexts.append(context)
    return contexts


def _predictions(questions: Sequence[Question], generated: Sequence[str]) -> list[Prediction]:
    texts = ("" if is_no_answer(answer) else answer.strip() for answer in generated)
    return [prediction(question, text) for question, text in zip(questions, texts, strict=True)]
