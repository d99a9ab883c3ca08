"""A question to an endpoint, and its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict

BYTES_A_TOKEN = 4
"""Of a text whose tokens the endpoint does not count."""


@dataclass(frozen=True)
class Question:
    """One request to ``chat/completions``."""

    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Other parameters of the request, such as temperature or tools; the endpoint has a default for each."""

    def key(self, url: str, model: str) -> str:
        """What tells this question to ``model`` at ``url`` from every other: a sha256 in hex."""
        parts = [url.rstrip("/"), model, list(self.messages), dict(self.parameters)]
        return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def estimated_tokens(self) -> int:
        """Tokens of the messages, if the endpoint does not count them: a quarter of their bytes."""
        return estimated_tokens(json.dumps(list(self.messages), ensure_ascii=False))


class Answer(BaseModel):
    """What an endpoint has answered, whether or not it can be used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    content: str | None
    finish_reason: str | None
    reasoning: str | None = None
    """The reasoning that the endpoint returns apart from the content."""
    refusal: str | None = None
    calls_tool: bool = False
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """Whether the endpoint did not count the tokens, so that they are a quarter of the bytes."""
    seconds: float
    """From the request to the answer."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Failed:
    """A question that has no answer after all tries."""

    problem: str
    """What the endpoint did, as a clause."""


Outcome = Answer | Failed

NOT_ASKED = Failed("was not asked")
"""The outcome of a question after enough others had theirs."""


def estimated_tokens(text: str) -> int:
    return -(-len(text.encode(errors="replace")) // BYTES_A_TOKEN)
