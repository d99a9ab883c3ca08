"""Messages of a conversation: the value of the column ``messages`` in the form that chat templates expect.

The formats of OpenAI's fine-tuning files are accepted, the older one with ``functions`` included. Nothing is dropped:
a key that this module does not know is passed on to the chat template, and `coverage` checks that it was rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import type_name
from finetune_trainer.prepare.rows import checked

ASSISTANT = "assistant"
SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", ASSISTANT, "tool")
_LEGACY_TOOL_ROLE = "function"
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names of the reasoning before an answer; transformers passes each of them to the template as the first."""
LINK_KEYS = ("tool_call_id",)
"""Keys that link the result of a tool to its call; not every chat template renders them."""
_LEARNED_KEYS = ("train", "training", "loss", "mask")
"""Names that other programs give to ``weight``."""
_CONVERTED_KEYS = ("role", "content", "weight", "tool_calls", "function_call", *REASONING_KEYS)

Message = dict[str, Any]
"""A message as chat templates expect it: ``role``, ``content``, and ``tool_calls`` with arguments as an object."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, at least one assistant message of which is learned."""

    messages: list[Message]
    learned: tuple[bool, ...]
    """Whether each message is learned."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the model may call."""
    weight_zero: int | None = None
    """Number of the first message to which the row gives the weight 0, counted from 1."""

    @property
    def characters(self) -> int:
        return sum(len(str(message.get("content") or "")) for message in self.messages)

    @property
    def content(self) -> str:
        parts: list[Any] = [self.messages]
        if self.tools or self.learned != tuple(message["role"] == ASSISTANT for message in self.messages):
            parts += [self.tools, self.learned]
        return json.dumps(parts, ensure_ascii=False, sort_keys=True)

    @property
    def answer(self) -> str:
        """Empty, because two answers to one prompt do not contradict each other."""
        return ""

    @property
    def last_learned(self) -> int:
        """Index of the last message that is learned."""
        return max(index for index, learned in enumerate(self.learned) if learned)


def conversation(values: object, column: str, tools: object = None) -> Conversation:
    """Convert the messages of a row.

    Args:
        values: Value of the column.
        column: Name of the column, for messages of errors.
        tools: Tools in the format of OpenAI's ``tools`` or ``functions``; a list, or the list as JSON.

    Raises:
        BadRow: The value is not a list of messages, or no message can be learned.
    """
    if not isinstance(values, list):
        raise BadRow(f"column '{column}' contains {type_name(values)}, not a list of messages; correct the row")
    if not values:
        raise BadRow(f"column '{column}' is an empty list; remove the row")
    messages, learned = [], []
    for number, value in enumerate(values, 1):
        message = _message(value, number)
        messages.append(message)
        learned.append(_is_learned(value, message["role"], number))
    _check_order(messages, learned)
    zero = next((number for number, value in enumerate(values, 1) if value.get("weight") == 0), None)
    return Conversation(messages, tuple(learned), _tools(tools), zero)


def _check_order(messages: Sequence[Message], learned: Sequence[bool]) -> None:
    roles = [message["role"] for message in messages]
    if ASSISTANT not in roles:
        raise BadRow("no message is from the assistant, so there is no answer to learn or to measure; add the answer")
    if roles[-1] != ASSISTANT:
        raise BadRow(
            f"the last message is from the {roles[-1]}, not from the assistant; add the answer or remove the message"
        )
    if not any(learned):
        raise BadRow(
            "every message of the assistant has the weight 0, so there is no answer to learn or to measure; remove the "
            "weights or the row"
        )


def _message(value: object, number: int) -> Message:
    if not isinstance(value, Mapping):
        raise BadRow(f"message {number} is {type_name(value)}, not an object with role and content; correct the row")
    role = value.get("role")
    if role == _LEGACY_TOOL_ROLE:
        role = "tool"
    if role not in ROLES:
        problem = f"the unknown role '{role[:40]}'" if isinstance(role, str) else "no role"
        raise BadRow(f"message {number} has {problem}; use one of {', '.join(ROLES)}")
    message: Message = {"role": role}
    calls = _tool_calls(value, number)
    if calls and role != ASSISTANT:
        raise BadRow(f"message {number} is from the {role} and calls a tool; only the assistant calls tools")
    reasoning = next((value[key] for key in REASONING_KEYS if value.get(key)), None)
    message["content"] = _content(value.get("content"), number, optional=bool(calls) or role == "tool")
    if reasoning is not None:
        message[REASONING_KEYS[0]] = checked(reasoning, f"the reasoning of message {number}")
    if calls:
        message["tool_calls"] = calls
    return message | _other_texts(value, number)


def _other_texts(message: Mapping[str, Any], number: int) -> dict[str, str]:
    """The keys that are passed to the chat template as they are."""
    others = {
        key: value
        for key, value in message.items()
        if key not in _CONVERTED_KEYS and value is not None and value not in ("", [], {})
    }
    for key, value in others.items():
        if not isinstance(value, str):
            instead = ", or set weight to 0 where an answer is not learned" if key in _LEARNED_KEYS else ""
            raise BadRow(f"message {number} has the key '{key[:40]}', which cannot be trained on; remove it{instead}")
        checked(value, f"'{key[:40]}' of message {number}")
    return others


def _content(value: object, number: int, *, optional: bool) -> str | list[dict[str, str]]:
    """The content as text; several text parts stay a list, because templates differ in how they join them."""
    what = f"the content of message {number}"
    if optional and not value:
        return ""
    if not isinstance(value, list):
        return checked(value, what)
    texts = [_part(part, number) for part in value]
    if not texts:
        raise BadRow(f"{what} is an empty list; fill it in or remove the row")
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _part(part: object, number: int) -> str:
    if isinstance(part, Mapping):
        kind = part.get("type")
        if kind != "text":
            name = f"of type '{kind[:40]}'" if isinstance(kind, str) else "without a type"
            raise BadRow(f"message {number} contains a part {name}; only text can be trained on")
        part = part.get("text")
    return checked(part, f"a part of message {number}")


def _is_learned(message: Mapping[str, Any], role: str, number: int) -> bool:
    weight = message.get("weight")
    if weight is None or (isinstance(weight, int | float) and weight == 1 and role == ASSISTANT):
        return role == ASSISTANT
    if isinstance(weight, int | float) and weight == 0:
        return False
    if weight == 1:
        raise BadRow(f"message {number} is from the {role} and has the weight 1; only assistant messages are learned")
    raise BadRow(f"message {number} has the weight {json.dumps(weight)[:40]}; use the number 0 or 1")


def _tool_calls(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    if legacy := message.get("function_call"):
        calls = [{"type": "function", "function": legacy}]
    if not isinstance(calls, list):
        raise BadRow(f"'tool_calls' of message {number} is {type_name(calls)}, not a list; correct the row")
    return [_tool_call(call, number) for call in calls]


def _tool_call(call: object, number: int) -> dict[str, Any]:
    what = f"a tool call of message {number}"
    if not isinstance(call, Mapping):
        raise BadRow(f"{what} is {type_name(call)}, not an object; correct the row")
    if call.get("type") not in (None, "function"):
        raise BadRow(f"{what} has the type '{str(call['type'])[:40]}'; only 'function' can be trained on")
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise BadRow(f"the function in {what} is {type_name(function)}, not an object; correct the row")
    result: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": checked(function.get("name"), f"the function name in {what}"),
            "arguments": _arguments(function.get("arguments"), what),
        },
    }
    if call.get("id"):
        result["id"] = checked(call["id"], f"the id in {what}")
    return result


def _arguments(value: object, what: str) -> dict[str, Any]:
    """The arguments as an object, as chat templates expect them; OpenAI's files contain them as JSON."""
    if value is None or value == "":
        return {}
    value = parsed(value, f"the arguments in {what}")
    if not isinstance(value, Mapping):
        raise BadRow(f"the arguments in {what} are {type_name(value)}, not an object; correct the row")
    return dict(value)


def _tools(value: object) -> list[dict[str, Any]] | None:
    if not value:
        return None
    value = parsed(value, "the tools")
    if not isinstance(value, list):
        raise BadRow(f"the tools are {type_name(value)}, not a list; correct the row")
    return [_tool(tool, number) for number, tool in enumerate(value, 1)] or None


def _tool(tool: object, number: int) -> dict[str, Any]:
    if isinstance(tool, Mapping) and isinstance(tool.get("function", tool), Mapping):
        function = tool.get("function", tool)
        checked(function.get("name"), f"the name of tool {number}")
        return {"type": "function", "function": dict(function)}
    raise BadRow(f"tool {number} is {type_name(tool)}, not an object with a function; correct the row")


def parsed(value: object, what: str) -> object:
    """``value``, or what it contains if it is JSON.

    Raises:
        BadRow: It is text that is not JSON; ``what`` is its name in the plural.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadRow(f"{what} are not valid JSON; correct the row") from None
