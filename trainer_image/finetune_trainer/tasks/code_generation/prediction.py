"""Code for prompts: one greedy answer to each, cut as in the evaluation."""

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
from finetune_trainer.pairs.prediction import PLACEHOLDER
from finetune_trainer.pairs.seq2seq import load_pair_tokenizer
from finetune_trainer.prepare.arrays import token_lists
from finetune_trainer.prepare.problems import row_explained
from finetune_trainer.prepare.rows import checked
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.code_generation.causal import CausalCodeEncoder, decode_code
from finetune_trainer.tasks.code_generation.preparation import rows_of
from finetune_trainer.tasks.code_generation.seq2seq import Seq2SeqCodeEncoder
from finetune_trainer.tasks.code_generation.stopping import stop_of
from finetune_trainer.tasks.instruction_tuning.prediction import answers_to, chat_tokenizer


def predict_causal(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    prompts = _prompts(inputs, rows)
    encoder = CausalCodeEncoder(inputs.spec, chat_tokenizer(inputs), inputs.data.max_sequence_length)
    ids = []
    for number, prompt in enumerate(prompts, 1):
        with row_explained(number):
            ids += encoder.prompts([prompt])
    tokens = TokenRows.of_column(pa.chunked_array([token_lists(ids)]))
    return _predictions(inputs, prompts, answers_to(inputs, tokens, prompts, decode_code))


def predict_seq2seq(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    prompts = _prompts(inputs, rows)
    tokenizer = load_pair_tokenizer(inputs.trained, inputs.spec, None)
    config = read_json(inputs.base / layout.MODEL_CONFIG)
    encoder = Seq2SeqCodeEncoder(inputs.spec, tokenizer, inputs.data.max_sequence_length, config)
    encoded = encoder.encode(prompts, [PLACEHOLDER] * len(prompts))
    for index, problem in sorted(encoded.problems.items()):
        with row_explained(index + 1):
            raise problem
    tokens = TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]]))
    return _predictions(inputs, prompts, generated(inputs, Seq2SeqPrompts(tokens, targets=tokens, references=prompts)))


def _prompts(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[str]:
    """The prompts of rows, which are texts or objects with the columns of the data."""
    schema, prompts = rows_of(inputs.spec), []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            prompts.append(schema.source(row) if isinstance(row, Mapping) else checked(row, "the prompt"))
    return prompts


def _predictions(inputs: EvaluationInputs, prompts: Sequence[str], outputs: Sequence[str]) -> list[Prediction]:
    stop = stop_of(inputs.spec.task.language)
    found = []
    for prompt, output in zip(prompts, outputs, strict=True):
        answer = stop.answer(prompt, output)
        found.append(Prediction(answer, {"prompt": prompt, "completion": answer}))
    return found
