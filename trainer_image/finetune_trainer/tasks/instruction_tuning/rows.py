"""Rows of InstructionTuning: a list of messages, or a prompt and its completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.spec import DataFormat, FineTuneJobSpec
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import first_columns, text_of, truth_of, value_of
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.tasks.base import Recognised
from finetune_trainer.tasks.instruction_tuning.layouts import (
    CONVERSATIONS,
    SYSTEM,
    AlpacaRows,
    ShareGptRows,
    with_system,
)
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation, conversation

_TOOLS = "tools"
_LEGACY_TOOLS = "functions"
_PAIRS = (
    ("question", "answer"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("query", "response"),
    ("input", "output"),
)
"""Names of a prompt and its completion that are often used instead of the default."""


@dataclass(frozen=True)
class ChatRows:
    """Reads rows with a list of messages, and optionally a system message and the tools that the model may call."""

    messages: str
    form = "conversations with messages"

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.messages,)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("messages",)

    @property
    def optional(self) -> tuple[str, ...]:
        return SYSTEM, _TOOLS, _LEGACY_TOOLS

    def example(self, values: Values) -> Conversation:
        tools = values.get(_TOOLS) or values.get(_LEGACY_TOOLS)
        messages = with_system(value_of(values, self.messages, "messages"), values.get(SYSTEM))
        return conversation(messages, self.messages, tools)


@dataclass(frozen=True)
class PromptRows:
    """Reads rows with a prompt column and a completion column, and optionally a system message."""

    prompt: str
    completion: str
    form = "prompts with completions"

    @property
    def needed(self) -> tuple[str, ...]:
        return self.prompt, self.completion

    @property
    def fields(self) -> tuple[str, ...]:
        return "prompt", "completion"

    @property
    def optional(self) -> tuple[str, ...]:
        return () if SYSTEM in self.needed else (SYSTEM,)

    def example(self, values: Values) -> Conversation:
        messages = [
            {"role": "user", "content": text_of(values, self.prompt, "prompt")},
            {"role": ASSISTANT, "content": text_of(values, self.completion, "completion")},
        ]
        messages = with_system(messages, next((values.get(name) for name in self.optional), None))
        return Conversation(messages, learned=tuple(message["role"] == ASSISTANT for message in messages))


Rows = ChatRows | PromptRows | ShareGptRows | AlpacaRows


class SingleTurns:
    """Reads the rows of a schema that are one message of a user and its answer."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.needed: tuple[str, ...] = rows.needed
        self.fields: tuple[str, ...] = rows.fields
        self.optional: tuple[str, ...] = rows.optional

    def example(self, values: Values) -> Conversation:
        found = self._rows.example(values)
        roles = [str(message["role"]) for message in found.messages]
        if roles != ["user", ASSISTANT] or found.tools:
            has = "tools" if found.tools else f"the messages {', '.join(roles[:6])}{', …' if len(roles) > 6 else ''}"
            raise BadRow(
                "a prompt is searched for rows of one message of a user and its answer, and this one has "
                f"{has}: {_single_turn(roles, tools=bool(found.tools))}"
            )
        return found


def _single_turn(roles: Sequence[str], *, tools: bool) -> str:
    """How a row becomes one message of a user and its answer, or what to do if it cannot."""
    if tools:
        return "remove the row, because a prompt has no tools, or train with another method"
    if roles[1:] == ["user", ASSISTANT]:
        return (
            f"remove its {roles[0]} message, and write its text into each of method.promptSearch.candidates, before "
            "the place of the prompt"
        )
    return "split the conversation into rows of one question and its answer, or remove the row"


def schema_for(spec: FineTuneJobSpec, files: Sequence[DataFile]) -> Rows:
    """The row schema of ``files``: set by the spec, or else detected from the first row."""
    columns = spec.dataset.columns
    messages = columns.name("messages")
    prompts = PromptRows(columns.name("prompt"), columns.name("completion"))
    if columns.given("prompt") is not None or columns.given("completion") is not None:
        return prompts
    if spec.dataset.format is DataFormat.OPENAI_CHAT or columns.given("messages") is not None:
        return ShareGptRows(messages) if messages == CONVERSATIONS else ChatRows(messages)
    found = first_columns(files)
    return _layout(found, messages, prompts) or prompts


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    if layout := _layout(names, "messages", PromptRows("prompt", "completion")):
        return _recognised({}, layout, names, rows, certain=True)
    for prompt, completion in _PAIRS:
        if prompt in names and completion in names:
            columns = {"prompt": prompt, "completion": completion}
            return _recognised(columns, PromptRows(prompt, completion), names, rows, certain=False)
    return None


def _recognised(
    columns: Mapping[str, str], layout: Rows, names: Sequence[str], rows: Sequence[Values], *, certain: bool
) -> Recognised:
    reads = (*layout.needed, *layout.optional)
    judging = next((name for name in names if name not in reads and _judges(name, rows)), None)
    # What is learned would include the bad answers.
    facts = (
        ""
        if judging is None
        else (
            f"column '{judging[:40]}' has true and false and is not used: if it says which answers are good, use "
            "PreferenceTuning with the loss KTO, and set dataset.columns.label to it"
        )
    )
    return Recognised(columns, layout.form, facts, certain=certain, reads=reads)


def _judges(name: str, rows: Sequence[Values]) -> bool:
    """Whether most values of a column are true or false, and both occur."""
    found = [truth_of(row.get(name)) for row in rows]
    return 2 * found.count(None) < len(found) and True in found and False in found


def _layout(names: Sequence[str], messages: str, prompts: PromptRows) -> Rows | None:
    layouts: tuple[Rows, ...] = (ChatRows(messages), prompts, ShareGptRows(CONVERSATIONS), AlpacaRows())
    return next((rows for rows in layouts if set(rows.needed) <= set(names)), None)
