"""Makes text from elsewhere safe to print on a terminal: from manifests, data, models, logs and the API server.

It could contain escape sequences, which move the cursor or change what is already on the screen, and bidirectional
controls, which show text in another order than it has.
"""

from __future__ import annotations

import json
import re

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI, such as colours
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings, such as the window title
    r"|\x1b[ -/]*[0-~]"
)
_DIRECTION = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = r"\u2028\u2029"
_UNSAFE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_LINES}{_DIRECTION}]")
_DIRECTIONS = re.compile(rf"[{_DIRECTION}]")
_BREAKS = re.compile(rf"[\x00-\x1f\x7f-\x9f{_LINES}]+")


def clean(text: str) -> str:
    """``text`` on one line, without escape sequences and control characters."""
    return _BREAKS.sub(" ", _DIRECTIONS.sub("", _ESCAPE_SEQUENCE.sub("", text))).strip()


def printable(text: str) -> str:
    """``text`` without escape sequences and control characters, except tabs and line feeds."""
    return _UNSAFE.sub("", _ESCAPE_SEQUENCE.sub("", text))


def is_printable(text: str) -> bool:
    """Whether `printable` changes nothing."""
    return _UNSAFE.search(text) is None


def escaped(document: str) -> str:
    """A JSON or quoted YAML document with control characters in its strings written as ``\\u202e``."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], document)
