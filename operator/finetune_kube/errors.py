"""The error of a failed request, with the fields of the Status object that the API server returned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_MAX_TEXT_BYTES = 200
_LONGEST_DOCUMENT = 80


class ApiError(Exception):
    """The API server rejected a request, or could not be reached (``code`` 0; ``__cause__`` is then the reason)."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        retry_after: float = 0.0,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code} {reason}: {message}" if code else message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details or {}

    @property
    def rejected(self) -> bool:
        """Whether the same request would fail again: forbidden, invalid or conflicting."""
        return self.code in (400, 403, 409, 422)

    @property
    def permanent(self) -> bool:
        """Whether the request itself is wrong, and nobody's permission or other write can change that."""
        return self.code in (400, 422)

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Field and message of each cause in the Status object."""
        causes = self.details.get("causes") or ()
        return [(str(cause.get("field", "")), without_documents(str(cause.get("message", "")))) for cause in causes]


def unreachable(error: Exception) -> ApiError:
    """The ApiError for a connection that failed or timed out."""
    return ApiError(0, "Unreachable", f"the API server cannot be reached: {str(error) or type(error).__name__}")


def decode(code: int, reason: str, content: bytes, retry_after: str = "") -> ApiError:
    """The ApiError for a response that is not a success; ``content`` is a Status object, or anything from a proxy."""
    details = None
    try:
        status = json.loads(content)
        reason = str(status.get("reason", reason))
        message = without_documents(str(status.get("message", ""))) or reason
        details = status.get("details")
    except (ValueError, AttributeError):
        message = content[:_MAX_TEXT_BYTES].decode(errors="replace").strip()
        if message.startswith("<"):
            message = "the response is a page of a proxy, not one of the API server"
    return ApiError(code, reason, message, float(retry_after) if retry_after.isdigit() else 0.0, details)


def without_documents(text: str) -> str:
    """``text`` with an ellipsis for the content of each long ``{…}``.

    A message about an invalid or immutable field contains the whole value, such as a pod template.
    """
    parts, position = [], 0
    while (start := text.find("{", position)) >= 0:
        end = _end_of_document(text, start)
        document = text[start:end]
        parts += [text[position:start], document if len(document) <= _LONGEST_DOCUMENT else "{…}"]
        position = end
    return "".join([*parts, text[position:]])


def _end_of_document(text: str, start: int) -> int:
    """The index after the brace that closes the one at ``start``; the end of the text if none does."""
    depth = 0
    for found in re.compile("[{}]").finditer(text, start):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    return len(text)
