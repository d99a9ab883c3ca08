"""Rows of InstructionTuning: a list of messages, or a prompt and its completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.spec import DataFormat, FineTuneJobSpec
from finetune_trainer.prepare.dedupe import normalised
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, columns_of, type_name
from finetune_trainer.prepare.rows import checked, text_of, value_of
from finetune_trainer.prepare.sources import DataFile

ROLES = ("system", "user", "assistant")

Message = dict[str, str]
"""``{"role": …, "content": …}``, as chat templates expect it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of messages that ends with an assistant message."""

    messages: list[Message]

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)

    @property
    def content(self) -> str:
        return "\0".join(f"{message['role']}\1{normalised(message['content'])}" for message in self.messages)


@dataclass(frozen=True)
class ChatRows:
    """Reads rows with a list of messages."""

    messages: str

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.messages,)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("messages",)

    def example(self, values: Values) -> Conversation:
        messages = value_of(values, self.messages, "messages")
        if not isinstance(messages, list):
            raise BadRow(
                f"column '{self.messages}' contains {type_name(messages)}, not a list of messages; correct the row"
            )
        if not messages:
            raise BadRow(f"column '{self.messages}' is an empty list; remove the row")
        conversation = [_message(message, number) for number, message in enumerate(messages, 1)]
        if all(message["role"] != "assistant" for message in conversation):
            raise BadRow("no message is from the assistant, so there is nothing to learn; add the answer")
        if conversation[-1]["role"] != "assistant":
            raise BadRow(
                f"the last message is from the {conversation[-1]['role']}, not from the assistant; add the answer or "
                "remove the message"
            )
        return Conversation(conversation)


@dataclass(frozen=True)
class PromptRows:
    """Reads rows with a prompt column and a completion column."""

    prompt: str
    completion: str

    @property
    def needed(self) -> tuple[str, ...]:
        return self.prompt, self.completion

    @property
    def fields(self) -> tuple[str, ...]:
        return "prompt", "completion"

    def example(self, values: Values) -> Conversation:
        return Conversation(
            [
                {"role": "user", "content": text_of(values, self.prompt, "prompt")},
                {"role": "assistant", "content": text_of(values, self.completion, "completion")},
            ]
        )


def schema_for(spec: FineTuneJobSpec, files: Sequence[DataFile]) -> ChatRows | PromptRows:
    """The row schema of ``files``: set by the spec, or else detected from the first row."""
    columns = spec.dataset.columns
    messages = columns.name("messages")
    as_prompt = columns.given("prompt") is not None or columns.given("completion") is not None
    as_chat = spec.dataset.format is DataFormat.OPENAI_CHAT or columns.given("messages") is not None
    if not as_chat and not as_prompt:
        found = next((names for file in files if (names := columns_of(file)) is not None), ())
        as_chat = messages in found
    return ChatRows(messages) if as_chat else PromptRows(columns.name("prompt"), columns.name("completion"))


def _message(message: object, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise BadRow(f"message {number} is {type_name(message)}, not an object with role and content; correct the row")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        problem = f"the unknown role '{role[:40]}'" if isinstance(role, str) else "no role"
        raise BadRow(f"message {number} has {problem}; use one of {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRow(f"message {number} calls a tool, which cannot be trained on yet; remove the row")
    return {"role": str(role), "content": checked(content, f"the content of message {number}")}
