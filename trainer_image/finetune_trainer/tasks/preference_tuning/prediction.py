"""PreferenceTuning: answers of the tuned model to prompts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.prepare.problems import BadRow, row_explained
from finetune_trainer.prepare.rows import checked
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.instruction_tuning.messages import Conversation
from finetune_trainer.tasks.instruction_tuning.prediction import PLACEHOLDER, answers_to, chat_tokenizer
from finetune_trainer.tasks.instruction_tuning.tokens import readable
from finetune_trainer.tasks.preference_tuning.rows import PairRows
from finetune_trainer.tasks.preference_tuning.tokens import AnswerTokeniser


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`. Answers in the rows are not read."""
    chats = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            chats.append(_conversation(inputs, row))
    tokeniser = AnswerTokeniser(chat_tokenizer(inputs), sys.maxsize)
    prompts = []
    for number, encoded in enumerate(tokeniser.encode([(chat,) for chat in chats]), 1):
        with row_explained(number):
            if isinstance(encoded, BadRow):
                raise encoded
            prompts.append(np.array(encoded.prompt, np.int32))
    ends = np.cumsum([len(prompt) for prompt in prompts])
    tokens = TokenRows(np.concatenate(prompts), np.concatenate([[0], ends]))
    texts = [readable(chat.messages[:-1]) for chat in chats]
    return [
        Prediction(answer, {"prompt": prompt, "answer": answer})
        for prompt, answer in zip(texts, answers_to(inputs, tokens, texts), strict=True)
    ]


def _conversation(inputs: EvaluationInputs, row: object) -> Conversation:
    """The conversation of a row up to the answer, which a placeholder replaces."""
    columns = inputs.spec.dataset.columns
    if not isinstance(row, Mapping):
        row = {columns.name("prompt"): checked(row, "the prompt")}
    column = columns.name("prompt")
    if column not in row:  # The prompt is in a conversation with its answer.
        conversations = (row.get(columns.name(field)) for field in ("chosen", "completion"))
        whole = next((messages for messages in conversations if isinstance(messages, list)), None)
        if whole is not None:
            row = {**row, column: whole[:-1]}
    answered = {**row, "answer": [PLACEHOLDER]}
    return PairRows(column, "answer", "answer").answered(answered, "answer", "chosen")
