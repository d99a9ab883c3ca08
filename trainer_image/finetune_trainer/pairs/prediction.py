"""Text-to-text tasks: targets for sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from finetune_api import layout
from finetune_trainer.evaluate.answer_comparison import generated
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.prompts import Seq2SeqPrompts
from finetune_trainer.json_files import read_json
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.pairs.forms import causal_encoder, seq2seq_encoder
from finetune_trainer.pairs.seq2seq import Seq2SeqPairEncoder, load_pair_tokenizer
from finetune_trainer.pairs.task import PairTask
from finetune_trainer.prepare.problems import row_explained
from finetune_trainer.prepare.rows import checked
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.instruction_tuning.prediction import answers, chat_tokenizer

PLACEHOLDER = "Answer"
"""Stands for the target, so that a source is tokenised as in training."""


def predict_causal(task: PairTask, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    sources = _sources(task, inputs, rows)
    tokenizer = chat_tokenizer(inputs)
    encoder = causal_encoder(task, inputs.spec, tokenizer, inputs.data.max_sequence_length)
    chats = [encoder.conversation(source, PLACEHOLDER) for source in encoder.cut(sources)]
    return _predictions(task, sources, [answer for _, answer in answers(inputs, tokenizer, chats)])


def predict_seq2seq(task: PairTask, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    sources = _sources(task, inputs, rows)
    tokenizer = load_pair_tokenizer(inputs.trained, inputs.spec, task.languages(inputs.spec))
    config = read_json(inputs.base / layout.MODEL_CONFIG)
    encoder = seq2seq_encoder(task, inputs.spec, tokenizer, inputs.data.max_sequence_length, config)
    return _predictions(task, sources, seq2seq_answers(inputs, encoder, sources))


def seq2seq_answers(inputs: EvaluationInputs, encoder: Seq2SeqPairEncoder, sources: Sequence[str]) -> list[str]:
    """The answers of the tuned model to ``sources``."""
    encoded = encoder.encode(sources, [PLACEHOLDER] * len(sources))
    tokens = TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]]))
    return generated(inputs, Seq2SeqPrompts(tokens, targets=tokens, references=list(sources)))


def _sources(task: PairTask, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[str]:
    """The sources of rows, which are texts or objects with the columns of the data."""
    sources = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            if isinstance(row, Mapping):
                sources.append(task.rows(inputs.spec, list(row)).source(row))
            else:
                sources.append(checked(row, "the text"))
    return sources


def _predictions(task: PairTask, sources: Sequence[str], targets: Sequence[str]) -> list[Prediction]:
    source, target = task.fields
    return [Prediction(answer, {source: text, target: answer}) for text, answer in zip(sources, targets, strict=True)]
