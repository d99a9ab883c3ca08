"""Checks that a rendered conversation contains every part of the row.

Chat templates ignore what they do not know, and some strip or rewrite texts. What the row says must be what the model
sees, so a row with a part that is not in the text is invalid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.instruction_tuning.messages import (
    LINK_KEYS,
    REASONING_KEYS,
    SYSTEM_ROLES,
    Conversation,
    Message,
)

Span = tuple[int, int]
"""Start (inclusive) and end (exclusive) in characters."""

_STRUCTURE = ("role", "content", "tool_calls", REASONING_KEYS[0], *LINK_KEYS)
_MORE = "use another chat template, or remove it from the row"


def check_tools(chat: Conversation, text: str) -> None:
    """Check that ``text`` contains the tools of ``chat``.

    Raises:
        BadRow: A part of a tool is missing.
    """
    for number, tool in enumerate(chat.tools or (), 1):
        function = tool["function"]
        if missing := next(_missing(text, function), None):
            what = f"tool {number}"
            if function["name"] in text:
                what = f"{missing[:60]!r} of tool {number}, {function['name'][:40]!r}"
            raise BadRow(f"the model's chat template leaves out {what}; {_MORE}")


def check_messages(chat: Conversation, text: str, answers: Mapping[int, Sequence[Span]]) -> None:
    """Check that ``text`` contains all messages of ``chat``.

    Args:
        chat: The conversation.
        text: The rendered conversation.
        answers: The spans of each learned message, by the index of the message.

    Raises:
        BadRow: A part is missing, or an answer is not in ``text`` as the row contains it.
    """
    position = 0
    for index, message in enumerate(chat.messages):
        spans = answers.get(index)
        if spans is not None:
            _check_answer(message, index + 1, [text[start:end] for start, end in spans])
            position = spans[-1][1]
        else:
            position = _check_message(message, index + 1, text, position)


def _check_answer(message: Message, number: int, learned: Sequence[str]) -> None:
    """Check a learned message: the texts ``learned`` contain it exactly."""
    for content in _contents(message, number, learned):
        if not any(content in text for text in learned):
            if any(content.strip() in text for text in learned):
                raise BadRow(
                    f"the model's chat template strips white space around the answer in message {number}, so the "
                    "answer cannot be learned as it is; remove the white space from the row"
                )
            raise BadRow(
                f"the model's chat template changes or leaves out the answer in message {number}; correct the row, or "
                "use another chat template"
            )
    _check_other_parts(message, number, learned)


def _check_message(message: Message, number: int, text: str, position: int) -> int:
    """Check a message that is not learned; returns where it ends, at least ``position``.

    Some templates write a system message into the last message of the user, so it may be anywhere.
    """
    is_system = message["role"] in SYSTEM_ROLES
    for content in _contents(message, number, [text]):
        # White space around it has no effect on what is learned.
        found = text.find(content.strip(), 0 if is_system else position)
        if found < 0:
            raise BadRow(
                f"the model's chat template changes or leaves out message {number}, which is from the "
                f"{message['role']}; use another chat template, or another role"
            )
        if not is_system:
            position = found + len(content.strip())
    _check_other_parts(message, number, [text])
    return position


def _contents(message: Message, number: int, texts: Sequence[str]) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    if any(_is_dumped(content, text) or json.dumps(content, ensure_ascii=False) in text for text in texts):
        raise BadRow(
            f"the model's chat template does not support the {len(content)} text parts of message {number}; join them "
            "to one text"
        )
    return [part["text"] for part in content]


def _check_other_parts(message: Message, number: int, texts: Sequence[str]) -> None:
    for what, is_in in _other_parts(message):
        if not any(is_in(text) for text in texts):
            raise BadRow(f"the model's chat template leaves out {what} of message {number}; {_MORE}")


def _other_parts(message: Message) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """The parts beside the content, each with a function that finds it in a text."""
    if reasoning := message.get(REASONING_KEYS[0]):
        yield "the reasoning", partial(_contains, value=reasoning)
    for call in message.get("tool_calls", ()):
        yield "a tool call", partial(_contains_call, function=call["function"])
    for key, value in message.items():
        # The name of a tool repeats that of the call.
        if key not in _STRUCTURE and not (key == "name" and message["role"] == "tool"):
            yield f"'{key[:40]}'", partial(_contains, value=value)


def _contains(text: str, value: str) -> bool:
    return value in text


def _contains_call(text: str, function: Mapping[str, Any]) -> bool:
    arguments = function["arguments"]
    if function["name"] not in text:
        return False
    if isinstance(arguments, str):
        return arguments in text
    return not any(_missing(text, arguments)) and not (arguments and _is_dumped(arguments, text))


def _is_dumped(value: Any, text: str) -> bool:
    """Whether ``text`` contains an object as Python writes it, because the template expects a text in its place."""
    return repr(value) in text and repr(value) != json.dumps(value, ensure_ascii=False)


def _missing(text: str, value: Any, key: str = "") -> Iterator[str]:
    """The parts of ``value`` that ``text`` lacks: as they are, and escaped as in JSON or Python.

    A text or a number in an object is named by its key.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _missing(text, part, str(name))
        yield from (name for name in map(str, value) if not _contains_escaped(text, name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _missing(text, part, key)
    elif value is not None and not _contains_escaped(text, value):
        yield key or str(value)


def _contains_escaped(text: str, value: str | float) -> bool:
    if isinstance(value, str):
        forms = [value.strip(), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]]
    else:
        forms = [json.dumps(value), str(value)]
    return any(form in text for form in forms)
