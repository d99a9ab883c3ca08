"""Makes text from elsewhere safe to print on a terminal: manifests, logs and documents of several lines."""

from __future__ import annotations

import json
import re

from finetune_api.text import DIRECTIONS, ESCAPE_SEQUENCE, LINES

_UNSAFE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{LINES}{DIRECTIONS}]")


def printable(text: str) -> str:
    """``text`` without escape sequences and control characters, except tabs and line feeds."""
    return _UNSAFE.sub("", ESCAPE_SEQUENCE.sub("", text))


def is_printable(text: str) -> bool:
    """Whether `printable` changes nothing."""
    return _UNSAFE.search(text) is None


def escaped(document: str) -> str:
    """A JSON or quoted YAML document with control characters in its strings written as ``\\u202e``."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], document)
