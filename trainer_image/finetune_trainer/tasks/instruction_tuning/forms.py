"""The forms in which chat templates accept a conversation."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from typing import Any

from finetune_trainer.tasks.instruction_tuning.messages import Conversation, Message


class Form(Enum):
    """How the messages are passed to the chat template."""

    OBJECTS = "arguments of tool calls as objects"
    """The form that transformers documents."""
    JSON_ARGUMENTS = "arguments of tool calls as JSON"
    PARTS = "content as a list of parts"
    """The form of multimodal models."""


def in_form(chat: Conversation, form: Form) -> Conversation:
    """``chat`` in ``form``."""
    if form is Form.OBJECTS:
        return chat
    change = _with_json_arguments if form is Form.JSON_ARGUMENTS else _with_parts
    return replace(chat, messages=[change(message) for message in chat.messages])


def _with_json_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    return message | {"tool_calls": [_with_json(call) for call in message["tool_calls"]]}


def _with_json(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return call | {"function": call["function"] | {"arguments": arguments}}


def _with_parts(message: Message) -> Message:
    content = message["content"]
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
