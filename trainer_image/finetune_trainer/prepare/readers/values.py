"""The values of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.prepare.problems import BadRow

Values = Mapping[str, Any]
"""Column (or JSON key) to value."""

Row = tuple[int, Values | BadRow]
"""Line or row number from 1, and the row."""

_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    ((list, tuple), "a list"),
    (dict, "an object"),
    (bytes, "binary data"),
)


def wrong_characters(text: str) -> str | None:
    """What characters of ``text`` cannot be learned, and what to do; None if all can."""
    if "\0" in text:
        return "contains a NUL character; remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains an unpaired surrogate, such as \\ud83d; correct the row"
    return None


def type_name(value: object) -> str:
    """The JSON type of a value with its article, such as ``a string``."""
    return next((words for kinds, words in _TYPE_NAMES if isinstance(value, kinds)), f"a {type(value).__name__}")
