"""Text for people. Makes text from elsewhere safe to show: from data, models, logs, reports and the API server.

It could contain escape sequences, which move the cursor or change what is already on a screen, bidirectional controls,
which show text in another order than it has, and characters that are line breaks in YAML only.
"""

from __future__ import annotations

import re

ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI, such as colours
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings, such as the window title
    r"|\x1b[ -/]*[0-~]"
)
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
LINES = r"\u2028\u2029"
_REMOVED = re.compile(rf"[{DIRECTIONS}\ufeff\ufffe\uffff]")
_BREAKS = re.compile(rf"[\x00-\x1f\x7f-\x9f{LINES}]+")
_HALVES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """``text`` on one line, without escape sequences, control characters and surrogates."""
    text = _REMOVED.sub("", ESCAPE_SEQUENCE.sub("", text))
    return _BREAKS.sub(" ", _HALVES.sub("?", text)).strip()


def duration(seconds: float) -> str:
    """A duration for people: ``9s``, ``3m20s``, ``2h05m``, ``1d03h``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
