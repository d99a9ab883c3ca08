"""Lists and objects that a text contains, because CSV has none: as JSON, or as pandas writes those of Python."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from itertools import pairwise
from typing import Any


def written(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that is written in ``text``; None if it has neither."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    for read in (json.loads, _literal):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, list | dict):
            return found
    return None


def _literal(text: str) -> Any:
    """The value of a Python literal."""
    text = text.strip()
    found = ast.literal_eval(text)
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL]
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):
        # As numpy writes the array ['a' 'b'], in which Python joins the texts.
        raise ValueError("texts without a comma between them")
    return found
