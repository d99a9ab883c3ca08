"""Rows of ShareGPT and Alpaca, which become conversations of OpenAI's messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.written import written
from finetune_trainer.prepare.rows import checked, text_of, value_of
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation, conversation, parsed

CONVERSATIONS = "conversations"
"""The column of ShareGPT."""
ALPACA_COLUMNS = ("instruction", "output")
SYSTEM = "system"
"""The column with the system message, in every layout."""

_LIST = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
_SPEAKER = re.compile(r"""['"](role|from)['"]\s*:\s*['"](system|developer|user|assistant|tool|human|gpt)['"]""")
"""With `_LIST`, what a text has that is a list of messages or turns."""

_FUNCTION_CALL = ("function_call", "tool_call")
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot", *_FUNCTION_CALL), ASSISTANT),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response"), "tool"),
    "system": "system",
    "developer": "developer",
}
"""The role for each name of a speaker."""


@dataclass(frozen=True)
class ShareGptRows:
    """Reads rows with a list of turns ``{"from": "human" | "gpt" | …, "value": …}``, or of messages.

    A column ``system`` has the system message, and ``tools`` the tools that the model may call.
    """

    turns: str
    form = "ShareGPT conversations"

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.turns,)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("messages",)

    @property
    def optional(self) -> tuple[str, ...]:
        return SYSTEM, "tools"

    def example(self, values: Values) -> Conversation:
        messages = messages_in(unwritten(value_of(values, self.turns, "messages"), self.turns))
        return conversation(with_system(messages, values.get(SYSTEM)), self.turns, values.get("tools"))


@dataclass(frozen=True)
class AlpacaRows:
    """Reads rows with an instruction and an output, and optionally an input, a system message and a history.

    The input follows the instruction after an empty line: the chat template of the model replaces Alpaca's own.
    """

    form = "Alpaca instructions"

    @property
    def needed(self) -> tuple[str, ...]:
        return ALPACA_COLUMNS

    @property
    def fields(self) -> tuple[str, ...]:
        return "prompt", "completion"

    @property
    def optional(self) -> tuple[str, ...]:
        return "input", SYSTEM, "history"

    def example(self, values: Values) -> Conversation:
        instruction, output = ALPACA_COLUMNS
        prompt = text_of(values, instruction, "prompt")
        if not _is_empty(values.get("input")):
            prompt += "\n\n" + checked(values["input"], "column 'input'")
        messages = [
            *_history(values.get("history")),
            {"role": "user", "content": prompt},
            {"role": ASSISTANT, "content": text_of(values, output, "completion")},
        ]
        return conversation(with_system(messages, values.get(SYSTEM)), instruction)


def _message(turn: object, number: int) -> object:
    """A turn as a message; what is no turn is left to the checks of messages."""
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    speaker, value = turn["from"], turn.get("value")
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None or "role" in turn or "content" in turn:
        found = f"is from '{speaker[:40]}'" if isinstance(speaker, str) else "is from nobody"
        raise BadRow(f"turn {number} {found}; use one of {', '.join(_ROLES)}, with the text in 'value'")
    others = {key: item for key, item in turn.items() if key not in ("from", "value") and item is not None}
    if speaker in _FUNCTION_CALL:
        calls = [{"type": "function", "function": call} for call in _calls(value, number)]
        return {**others, "role": role, "content": "", "tool_calls": calls}
    return {**others, "role": role, "content": checked(value, f"the value of turn {number}")}


def _calls(value: object, number: int) -> list[Any]:
    """The function calls in the value of a turn: one, or a list of them, as JSON."""
    calls = parsed(value, f"the function calls in turn {number}")
    return calls if isinstance(calls, list) else [calls]


def unwritten(cell: object, column: str) -> object:
    """The list of messages or turns that is written in a text, as in CSV; any other cell as it is.

    Raises:
        BadRow: The text begins as such a list, and cannot be read.
    """
    if not (isinstance(cell, str) and _LIST.match(cell) and _SPEAKER.search(cell)):
        return cell
    if (found := written(cell)) is None:
        raise BadRow(f"column '{column}' begins as a list of messages but is not valid JSON; write it as JSON")
    return found


def messages_in(cell: object) -> object:
    """A message or turn, or a list of them, as a list of messages; any other cell as it is."""
    listed = [cell] if isinstance(cell, Mapping) else cell
    return [_message(turn, number) for number, turn in enumerate(listed, 1)] if isinstance(listed, list) else cell


def prompt_messages(value: object, column: str) -> list[Any]:
    """The messages of a prompt, which is a text or a list of them.

    Raises:
        BadRow: It is neither.
    """
    found = messages_in(unwritten(value, column))
    if not isinstance(found, list):
        return [{"role": "user", "content": checked(value, f"column '{column}'")}]
    return _filled(found, column)


def answer_messages(value: object, column: str, *, beside_text: bool) -> list[Any]:
    """The messages of an answer, which is a text, a message, or a list of them.

    Args:
        value: The cell.
        column: Its column, for messages.
        beside_text: Whether the prompt is a text, so that a text that looks like messages is one.

    Raises:
        BadRow: It is none of these.
    """
    found = messages_in(value if beside_text else unwritten(value, column))
    if isinstance(found, str):
        return [{"role": ASSISTANT, "content": checked(found, f"column '{column}'")}]
    if not isinstance(found, list):
        raise BadRow(
            f"column '{column}' contains {type_name(value)}, neither a text nor a list of messages; correct the row"
        )
    return _filled(found, column)


def _filled(messages: list[Any], column: str) -> list[Any]:
    if not messages:
        raise BadRow(f"column '{column}' is an empty list; fill it in or remove the row")
    return messages


def with_system(messages: Any, system: object) -> Any:
    """``messages`` with the value of the column ``system`` before them; what is no list is left to later checks."""
    if _is_empty(system) or not isinstance(messages, list):
        return messages
    if messages and isinstance(messages[0], Mapping) and messages[0].get("role") == "system":
        raise BadRow("the row has a system message twice, in column 'system' and in the conversation; remove one")
    return [{"role": "system", "content": checked(system, "column 'system'")}, *messages]


def _history(value: object) -> list[dict[str, str]]:
    """Earlier turns: pairs of a prompt and an answer."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRow(f"column 'history' contains {type_name(value)}, not a list of pairs; correct the row")
    messages = []
    for number, pair in enumerate(value, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"item {number} of column 'history' is not a pair of a prompt and an answer; correct the row")
        for role, text in zip(("user", ASSISTANT), pair, strict=True):
            messages.append({"role": role, "content": checked(text, f"item {number} of column 'history'")})
    return messages


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
