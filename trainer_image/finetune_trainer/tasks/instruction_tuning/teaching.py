"""Conversations whose last answer a teacher writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.endpoint.messages import Question
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import UNANSWERED, OpenSchema
from finetune_trainer.tasks.instruction_tuning.layouts import ShareGptRows
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, REASONING_KEYS, Conversation, Message
from finetune_trainer.tasks.instruction_tuning.rows import ChatRows, Rows


@dataclass(frozen=True)
class OpenRows(OpenSchema[Rows]):
    """Reads rows that may lack the answer: the completion, or the last message of a conversation."""

    @property
    def form(self) -> str:
        return self.schema.form

    def example(self, values: Values) -> Conversation:
        if self.schema.needed[0] not in values:
            return self.schema.example(values)  # It says what is missing.
        column = self.schema.needed[-1]
        if isinstance(self.schema, ChatRows | ShareGptRows):
            filled = _answered(values.get(column))
        else:
            text = values.get(column)
            filled = UNANSWERED if text is None or (isinstance(text, str) and not text.strip()) else text
        return self.schema.example({**values, column: filled} if column in values or filled is UNANSWERED else values)


def _answered(messages: Any) -> Any:
    """``messages`` with an answer at their end; what is no list of messages is left to later checks."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role", last.get("from")) not in ("user", "human", "tool"):
        return messages
    return [*messages, {"role": ASSISTANT, "content": UNANSWERED}]


def question(conversation: Conversation) -> Question:
    """What the teacher is asked: the messages before the last answer that is learned, and the tools."""
    messages = [_sent(message) for message in conversation.messages[: conversation.last_learned]]
    return Question(messages, {"tools": conversation.tools} if conversation.tools else {})


def with_answer(conversation: Conversation, answer: str) -> Conversation:
    """``conversation`` up to the last answer that is learned, which is replaced."""
    last = conversation.last_learned
    return Conversation(
        [*conversation.messages[:last], {"role": ASSISTANT, "content": answer}],
        conversation.learned[: last + 1],
        conversation.tools,
        conversation.weight_zero if (conversation.weight_zero or 0) <= last else None,
    )


def _sent(message: Message) -> dict[str, Any]:
    """A message as OpenAI's API has it: the arguments of calls are JSON, and there is no reasoning."""
    sent = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    if calls := message.get("tool_calls"):
        sent["tool_calls"] = [
            {
                "id": str(number),
                **call,
                "function": {
                    **call["function"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for number, call in enumerate(calls)
        ]
    return sent
