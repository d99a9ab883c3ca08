"""InstructionTuning: answers to prompts and conversations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from finetune_trainer.evaluate.answer_comparison import generated
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.prompts import CausalPrompts
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.tokenizer import Decode, fix_date, load_base_tokenizer, plain_decode
from finetune_trainer.prepare.problems import BadRow, row_explained
from finetune_trainer.prepare.rows import checked, value_of
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.instruction_tuning.layouts import SYSTEM, prompt_messages, with_system
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation, conversation
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser

PLACEHOLDER = {"role": ASSISTANT, "content": "Answer"}
"""The answer whose start ends the prompt: the prompt is then rendered and cut as that of a row of the data."""


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    chats = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            chats.append(_conversation(inputs, row))
    return [
        Prediction(answer, {"prompt": prompt, "answer": answer})
        for prompt, answer in answers(inputs, chat_tokenizer(inputs), chats)
    ]


def chat_tokenizer(inputs: EvaluationInputs) -> PreTrainedTokenizerFast:
    """The tokenizer of the artifact, whose chat template says the date that it was trained with."""
    tokenizer = load_base_tokenizer(inputs.trained, "the artifact")
    fix_date(tokenizer, inputs.data.template_date)
    return tokenizer


def answers(
    inputs: EvaluationInputs, tokenizer: PreTrainedTokenizerFast, chats: Sequence[Conversation]
) -> list[tuple[str, str]]:
    """The prompts in readable form and the answers of conversations whose answer is a placeholder.

    Raises:
        StageFailure: As `finetune_trainer.tasks.base.TaskForm.predict`.
    """
    encoded = ChatTokeniser(tokenizer, sys.maxsize).encode(chats)
    for index, problem in sorted(encoded.problems.items()):
        with row_explained(index + 1):
            raise problem
    lengths = encoded.columns["prompt_length"].to_numpy()
    prompts = encoded.columns["prompt"].to_pylist()
    tokens = TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]])).heads(lengths)
    return list(zip(prompts, answers_to(inputs, tokens, prompts), strict=True))


def answers_to(
    inputs: EvaluationInputs, tokens: TokenRows, prompts: list[str], decode: Callable[[Any], Decode] = plain_decode
) -> list[str]:
    """The answers to prompts with these ``tokens``; ``decode`` is how the tokenizer decodes them.

    Raises:
        StageFailure: As `finetune_trainer.tasks.base.TaskForm.predict`.
    """
    positions = inputs.data.positions
    for number, length in enumerate(tokens.lengths.tolist(), 1):
        if positions and length >= positions:
            with row_explained(number):
                raise BadRow(f"the prompt has {length} tokens, but the model supports {positions}; shorten it")
    rows = CausalPrompts(tokens, labels=tokens, prompt_lengths=tokens.lengths.astype(np.int64), references=prompts)
    return generated(inputs, rows, decode)


def _conversation(inputs: EvaluationInputs, row: object) -> Conversation:
    """The conversation of a row up to the answer, which a placeholder replaces."""
    columns = inputs.spec.dataset.columns
    tools = None
    if not isinstance(row, Mapping):
        messages = [{"role": "user", "content": checked(row, "the prompt")}]
    elif columns.name("messages") in row:
        tools = row.get("tools") or row.get("functions")
        messages = value_of(row, columns.name("messages"), "messages")
        messages = list(messages) if isinstance(messages, list) else messages
        if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
            messages = messages[:-1] if messages[-1].get("role") == ASSISTANT else messages
    else:
        messages = prompt_messages(value_of(row, columns.name("prompt"), "prompt"), columns.name("prompt"))
        tools = row.get("tools") if isinstance(row[columns.name("prompt")], list) else None
    if isinstance(row, Mapping):
        messages = with_system(messages, row.get(SYSTEM))
    if isinstance(messages, list):
        messages = [*messages, PLACEHOLDER]
    chat = conversation(messages, columns.name("messages"), tools)
    return replace(chat, learned=(*[False] * (len(chat.messages) - 1), True))
