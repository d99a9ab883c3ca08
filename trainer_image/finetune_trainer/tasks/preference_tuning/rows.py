"""Rows of PreferenceTuning: two answers to a prompt, of which one is better; or one answer with a judgement (KTO)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.preferences import PreferenceLoss
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.written import written
from finetune_trainer.prepare.rows import first_columns, missing, truth_of, value_of
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.tasks.base import Recognised
from finetune_trainer.tasks.instruction_tuning.layouts import (
    SYSTEM,
    answer_messages,
    messages_in,
    prompt_messages,
    unwritten,
    with_system,
)
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation, Message, conversation

TOOLS = "tools"
_ONE_KIND = "KTO learns from desirable and undesirable answers, and the first rows have one kind: add the other."
_PROMPTS = ("question", "instruction", "query", "conversations", "input")
"""Names of a prompt that are used instead of the default."""
_REMEDY = "use true, false, yes, no, 1 or 0"


@dataclass(frozen=True, slots=True)
class Pair:
    """A better and a worse answer to a prompt: two conversations that differ in the last message only."""

    chosen: Conversation
    rejected: Conversation

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return self.chosen, self.rejected

    @property
    def characters(self) -> int:
        return self.chosen.characters + self.rejected.characters

    @property
    def content(self) -> str:
        """The same for the pair the other way round, which contradicts it."""
        return json.dumps([self.group, sorted(_text(chat.messages[-1]) for chat in self.conversations)])

    @property
    def answer(self) -> str:
        return _text(self.chosen.messages[-1])

    @property
    def group(self) -> str:
        """All pairs of a prompt are in the same split."""
        return _prompt(self.chosen)


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer to a prompt, and whether it is desirable."""

    chat: Conversation
    desirable: bool

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.chat,)

    @property
    def characters(self) -> int:
        return self.chat.characters

    @property
    def content(self) -> str:
        return json.dumps([self.group, _text(self.chat.messages[-1])])

    @property
    def answer(self) -> str:
        return str(self.desirable)

    @property
    def group(self) -> str:
        """All answers to a prompt are in the same split."""
        return _prompt(self.chat)


@dataclass(frozen=True)
class _PromptRows:
    """Reads answers to a prompt: texts, messages, or whole conversations that end with the answer."""

    prompt: str | None
    """Column of the prompt; None if the conversations contain it."""

    @property
    def optional(self) -> tuple[str, ...]:
        return SYSTEM, TOOLS

    def answered(self, values: Values, column: str, field: str) -> Conversation:
        """The conversation that ends with the answer in ``column``.

        Raises:
            BadRow: There is none.
        """
        answer = value_of(values, column, field)
        if self.prompt is None:
            answer = messages_in(unwritten(answer, column))
            if isinstance(answer, str):
                lacking = missing("prompt", "prompt", values)
                raise BadRow(f"{lacking}, or write prompt and answer as messages in column '{column}'")
            answer = answer_messages(answer, column, beside_text=False)
            if len(answer) < 2:
                raise BadRow(missing("prompt", "prompt", values))
            return self._conversation(answer, column, values)
        asked = unwritten(value_of(values, self.prompt, "prompt"), self.prompt)
        before = prompt_messages(asked, self.prompt)
        answer = answer_messages(answer, column, beside_text=isinstance(asked, str))
        if len(answer) == 1:
            return self._conversation([*before, *answer], column, values)
        whole = self._conversation(answer, column, values)
        self._check_prompt(before, whole, column)
        return whole

    def _conversation(self, messages: list[Any], column: str, values: Values) -> Conversation:
        chat = conversation(with_system(messages, values.get(SYSTEM)), column, values.get(TOOLS))
        before = chat.messages[:-1]
        if not any(message["role"] == "user" for message in before):
            raise BadRow(f"no message of the user is before the answer in column '{column}'; add the prompt")
        if before[-1]["role"] == ASSISTANT:
            raise BadRow(
                f"a message of the assistant is before the answer in column '{column}'; join them, or put a message of "
                "the user between them"
            )
        return replace(chat, learned=(*[False] * len(before), True))

    def _check_prompt(self, before: list[Any], whole: Conversation, column: str) -> None:
        """Check that the conversation in ``column`` contains the prompt, which data sets of the Hub repeat."""
        wanted = [_content(message) for message in before]
        present = [_content(message) for message in whole.messages[:-1]]
        if not all(text in present for text in wanted):
            raise BadRow(
                f"column '{self.prompt}' is not in the conversation of column '{column}'; correct the row, or give the "
                "answer alone"
            )


@dataclass(frozen=True)
class PairRows(_PromptRows):
    """Reads rows with two answers, of which the first is better."""

    chosen: str
    rejected: str

    @property
    def form(self) -> str:
        return "pairs of answers" if self.prompt else "pairs of conversations"

    @property
    def needed(self) -> tuple[str, ...]:
        return (*([self.prompt] if self.prompt else []), self.chosen, self.rejected)

    @property
    def fields(self) -> tuple[str, ...]:
        return (*(["prompt"] if self.prompt else []), "chosen", "rejected")

    def example(self, values: Values) -> Pair:
        chosen = self.answered(values, self.chosen, "chosen")
        rejected = self.answered(values, self.rejected, "rejected")
        if _prompt(chosen) != _prompt(rejected):
            raise BadRow(
                f"the conversations in '{self.chosen}' and '{self.rejected}' differ before their last message; they "
                "must answer the same prompt"
            )
        if _stripped(chosen.messages[-1]) == _stripped(rejected.messages[-1]):
            raise BadRow(
                f"'{self.chosen}' and '{self.rejected}' are the same answer, up to white space around it, so the pair "
                "says nothing; remove the row"
            )
        return Pair(chosen, rejected)


@dataclass(frozen=True)
class JudgedRows(_PromptRows):
    """Reads rows with one answer, and whether it is desirable."""

    completion: str
    label: str
    form = "answers with judgements"

    @property
    def needed(self) -> tuple[str, ...]:
        return (*([self.prompt] if self.prompt else []), self.completion, self.label)

    @property
    def fields(self) -> tuple[str, ...]:
        return (*(["prompt"] if self.prompt else []), "completion", "label")

    def example(self, values: Values) -> Judged:
        chat = self.answered(values, self.completion, "completion")
        return Judged(chat, desirable(value_of(values, self.label, "label"), self.label))


def schema_for(spec: FineTuneJobSpec, files: Sequence[DataFile]) -> PairRows | JudgedRows:
    """The row schema of ``files``. Their first row says whether they have a column with the prompt."""
    assert spec.preference is not None
    columns = spec.dataset.columns
    known = columns.given("prompt") is not None or columns.name("prompt") in first_columns(files)
    prompt = columns.name("prompt") if known else None
    if spec.preference.loss.row.paired:
        return PairRows(prompt, columns.name("chosen"), columns.name("rejected"))
    return JudgedRows(prompt, columns.name("completion"), columns.name("label"))


def desirable(value: object, column: str) -> bool:
    """Whether a label says that an answer is desirable.

    Raises:
        BadRow: It says neither.
    """
    if (found := truth_of(value)) is not None:
        return found
    shown = f"'{value[:40]}'" if isinstance(value, str) else type_name(value)
    if isinstance(value, int | float):
        shown = f"the number {value}"
    raise BadRow(f"column '{column}' contains {shown}, which is neither true nor false; {_REMEDY}")


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    prompt = "prompt" if "prompt" in names else None
    if {"chosen", "rejected"} <= set(names):
        if prompt is None and not any(_is_whole(row.get("chosen")) for row in rows):
            prompt = next((name for name in _PROMPTS if name in names), None)
        pairs = PairRows(prompt, "chosen", "rejected")
        columns = {"prompt": prompt} if prompt and prompt != "prompt" else {}
        return Recognised(columns, pairs.form, "", certain=True, reads=(*pairs.needed, *pairs.optional))
    if not {"completion", "label"} <= set(names):
        return None
    judged = JudgedRows(prompt, "completion", "label")
    labels = [truth_of(row.get("label")) for row in rows]
    wrong = labels.count(None)
    # A few labels that are no judgements are bad rows, which prepare reports: they make it no data for another task.
    if 2 * wrong >= len(labels):
        return None
    facts = f"{labels.count(True):,} of the first {len(rows):,} answers are desirable"
    if wrong:
        facts += f", {wrong:,} {'have' if wrong > 1 else 'has'} a label that is neither true nor false"
    settings = {"loss": str(PreferenceLoss.KTO)}
    reads = (*judged.needed, *judged.optional)
    one_kind = not {True, False} <= set(labels)
    return Recognised(
        {}, judged.form, facts, certain=True, reads=reads, preference=settings, open=_ONE_KIND if one_kind else ""
    )


def _is_whole(answer: object) -> bool:
    """Whether an answer is a conversation with its prompt."""
    found = written(answer) if isinstance(answer, str) else answer
    return isinstance(found, list) and len(found) > 1


def _prompt(chat: Conversation) -> str:
    parts: list[Any] = [chat.messages[:-1], *([chat.tools] if chat.tools else [])]
    return json.dumps(parts, ensure_ascii=False, sort_keys=True)


def _text(message: Message) -> str:
    return json.dumps(message, ensure_ascii=False, sort_keys=True)


def _stripped(message: Message) -> Message:
    content = message["content"]
    return message | {"content": content.strip()} if isinstance(content, str) else message


def _content(message: object) -> object:
    """The content of a message, without white space around it."""
    content = message.get("content") if isinstance(message, Mapping) else None
    return content.strip() if isinstance(content, str) else content
