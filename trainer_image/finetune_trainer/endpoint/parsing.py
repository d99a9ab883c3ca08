"""Read the response of an endpoint, which may be anything."""

from __future__ import annotations

import json
from typing import Any

from finetune_api.text import clean
from finetune_trainer.endpoint.messages import Answer, Question, estimated_tokens

_REASONING_KEYS = ("reasoning_content", "reasoning")
"""Of DeepSeek, SGLang and earlier versions of vLLM; of vLLM and OpenRouter."""
_SHOWN = 80
_SHOWN_MESSAGE = 200


class Malformed(Exception):
    """A response with status 200 that is no answer. The message is a clause that follows ``the endpoint``."""


def read_answer(body: bytes, question: Question, seconds: float) -> Answer:
    """The answer in the body of a response.

    Raises:
        Malformed: There is none.
    """
    document = _document(body)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        if error := error_message(document):
            raise Malformed(f"reports an error with status 200: {error}")
        raise Malformed(f"answers with JSON that has no choices: {_start(body)}")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Malformed(f"answers with a choice that has no message: {_start(body)}")
    content, finish = _text(message.get("content")), choice.get("finish_reason")
    reasoning = next((text for key in _REASONING_KEYS if (text := _text(message.get(key)))), None)
    calls = message.get("tool_calls") or message.get("function_call")
    usage = document.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    counts = [_count(counted.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    texts = "".join(text for text in (content, reasoning, json.dumps(calls) if calls else None) if text)
    estimates = [question.estimated_tokens, estimated_tokens(texts)]
    prompt_tokens, completion_tokens = (
        estimate if count is None else count for count, estimate in zip(counts, estimates, strict=True)
    )
    return Answer(
        content=content,
        finish_reason=finish if isinstance(finish, str) else None,
        reasoning=reasoning,
        refusal=_text(message.get("refusal")) or None,
        calls_tool=bool(calls),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        estimated=None in counts,
        seconds=round(seconds, 3),
    )


def error_message(document: object) -> str:
    """The message in the body of an error; empty if there is none."""
    error = document
    if isinstance(document, dict):
        # ``detail`` is FastAPI's.
        error = next((document[name] for name in ("error", "message", "detail") if name in document), None)
    if isinstance(error, dict):
        error = error.get("message")
    return clean(error)[:_SHOWN_MESSAGE] if isinstance(error, str) else ""


def _document(body: bytes) -> dict[str, Any]:
    text = body.decode("utf-8", errors="replace")
    if not text.strip():
        raise Malformed("answers with nothing")
    try:
        document = json.loads(text)
    except ValueError:
        start = text.lstrip()[:15].lower()
        what = "HTML" if start.startswith(("<!doctype", "<html")) else "text"
        raise Malformed(f"answers with {what}, not JSON: {_start(body)}") from None
    if not isinstance(document, dict):
        raise Malformed(f"answers with JSON that has no choices: {_start(body)}")
    return document


def _text(value: object) -> str | None:
    """A text; some servers have a list of parts."""
    if isinstance(value, list):
        texts = [part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(texts)
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _start(body: bytes) -> str:
    text = clean(body[: 4 * _SHOWN].decode("utf-8", errors="replace"))
    return f"'{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}'"
