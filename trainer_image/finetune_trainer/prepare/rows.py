"""From the columns of a row to an example of the task, or to what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataFormat, FineTuneJobSpec, TaskType
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, columns_of, type_name
from finetune_trainer.prepare.sources import DataFile, FileKind

ROLES = ("system", "user", "assistant")
MOST_LABELS = 1024
"""Labels that are read from data; more of them mean that the column holds something else."""

Message = dict[str, str]
"""``{"role": …, "content": …}``, as chat templates want it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its label."""

    text: str
    label: str

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the last of them the assistant's."""

    messages: list[Message]

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


Example = Labelled | Conversation


class RowSchema(Protocol):
    """Which columns of a data set make an example, and how."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a row must have."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of dataset.columns that name them, in the same order."""

    def example(self, values: Values) -> Example:
        """The example of a row.

        Raises:
            BadRow: The row has none.
        """


@dataclass(frozen=True)
class LabelledRows:
    """TextClassification. ``labels`` are those that may occur; None admits every label."""

    text: str
    label: str
    labels: frozenset[str] | None
    label_origin: str = "task.labels"

    @property
    def needed(self) -> tuple[str, ...]:
        return self.text, self.label

    @property
    def fields(self) -> tuple[str, ...]:
        return "text", "label"

    def example(self, values: Values) -> Labelled:
        text = _text(values, self.text, "text")
        label = _label(_value(values, self.label, "label"), self.label)
        if self.labels is not None and label not in self.labels:
            raise BadRow(_unknown_label(label, self.labels, self.label_origin))
        return Labelled(text, label)


@dataclass(frozen=True)
class ChatRows:
    """InstructionTuning with a list of messages."""

    messages: str

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.messages,)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("messages",)

    def example(self, values: Values) -> Conversation:
        messages = _value(values, self.messages, "messages")
        if not isinstance(messages, list):
            raise BadRow(f"column '{self.messages}' holds {type_name(messages)}, not a list of messages; correct it")
        if not messages:
            raise BadRow(f"column '{self.messages}' is an empty list; remove the row")
        conversation = [_message(message, number) for number, message in enumerate(messages, 1)]
        if all(message["role"] != "assistant" for message in conversation):
            raise BadRow("no message is from the assistant, so nothing can be learned; add the answer")
        if conversation[-1]["role"] != "assistant":
            raise BadRow(
                f"the last message is from the {conversation[-1]['role']}, not from the assistant; add the answer or "
                "remove the message"
            )
        return Conversation(conversation)


@dataclass(frozen=True)
class PromptRows:
    """InstructionTuning with a prompt and its completion in two columns."""

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
                {"role": "user", "content": _text(values, self.prompt, "prompt")},
                {"role": "assistant", "content": _text(values, self.completion, "completion")},
            ]
        )


def schema_for(spec: FineTuneJobSpec, files: Iterable[DataFile]) -> RowSchema:
    """How rows of ``files`` are read, going by the spec and, where it leaves that open, by the first row.

    Raises:
        StageFailure: BadData when a header or schema lacks a column.
    """
    columns = spec.dataset.columns
    listed = list(files)
    found = [names for file in listed if (names := columns_of(file)) is not None]
    schema: RowSchema
    if spec.task.type is TaskType.TEXT_CLASSIFICATION:
        labels = None if spec.task.labels is None else frozenset(spec.task.labels)
        schema = LabelledRows(columns.text or "text", columns.label or "label", labels)
    else:
        messages = columns.messages or "messages"
        as_chat = spec.dataset.format is DataFormat.OPENAI_CHAT or columns.messages is not None
        as_prompt = columns.prompt is not None or columns.completion is not None
        if as_chat or (not as_prompt and bool(found) and messages in found[0]):
            schema = ChatRows(messages)
        else:
            schema = PromptRows(columns.prompt or "prompt", columns.completion or "completion")
    for file in listed:
        _check_header(file, schema)
    return schema


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in order: by value when all are whole numbers, else by text."""
    listed = list(labels)
    if all(label.removeprefix("-").isdecimal() for label in listed):
        return tuple(sorted(listed, key=lambda label: (int(label), label)))
    return tuple(sorted(listed))


def _check_header(file: DataFile, schema: RowSchema) -> None:
    """JSON rows may differ from each other, so theirs are looked at one by one."""
    if file.kind is FileKind.JSONL or (names := columns_of(file)) is None:
        return
    for column, field in zip(schema.needed, schema.fields, strict=True):
        if column not in names:
            where = file.uri if file.kind is FileKind.PARQUET else file.at(1)
            raise StageFailure(Reason.BAD_DATA, f"{where}: {_missing(column, field, names)}")


def _value(values: Values, column: str, field: str) -> Any:
    try:
        return values[column]
    except KeyError:
        raise BadRow(_missing(column, field, values)) from None


def _missing(column: str, field: str, names: Iterable[str]) -> str:
    listed = [f"'{name[:40]}'" for name in names]
    there = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "") if listed else "no column at all"
    return f"column '{column}' is missing, there is {there}; name the right column in dataset.columns.{field}"


def _text(values: Values, column: str, field: str) -> str:
    return _checked(_value(values, column, field), f"column '{column}'")


def _checked(value: object, what: str) -> str:
    """``value`` if it is text that says something and can be stored."""
    if not isinstance(value, str):
        raise BadRow(f"{what} holds {type_name(value)}, not text; correct it")
    if not value or value.isspace():
        raise BadRow(f"{what} is empty; fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{what} holds half of a surrogate pair (such as \\ud83d alone); correct it") from None
    return value


def _label(value: object, column: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        raise BadRow(f"column '{column}' holds the number {value}, not a label; use text or a whole number")
    return _checked(value, f"column '{column}'").strip()


def _unknown_label(label: str, labels: frozenset[str], origin: str) -> str:
    near = difflib.get_close_matches(label, sorted(labels), n=1)
    if not near:
        near = [name for name in sorted(labels) if name.casefold() == label.casefold()]
    if near:
        hint = f"did you mean '{near[0]}'?"
    else:
        shown = [f"'{name}'" for name in sorted_labels(labels)[:8]]
        hint = f"there is {', '.join(shown)}" + (", …" if len(labels) > 8 else "")
    return f"label '{label[:80]}' is not in {origin}, {hint}"


def _message(message: object, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise BadRow(f"message {number} is {type_name(message)}, not an object with role and content; correct it")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        said = f"the unknown role '{role[:40]}'" if isinstance(role, str) else "no role"
        raise BadRow(f"message {number} has {said}; use one of {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRow(f"message {number} calls a tool, which cannot be trained on yet; remove the row")
    return {"role": str(role), "content": _checked(content, f"the content of message {number}")}
