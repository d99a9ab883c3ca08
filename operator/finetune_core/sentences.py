"""Sentences put together from what others have said."""

from __future__ import annotations


def clipped(text: str, longest: int) -> str:
    """``text`` in at most ``longest`` characters; an ellipsis stands for what was cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: str) -> str:
    return " ".join(text.split())


def sentence(text: str) -> str:
    """``text`` with its full stop, so that another sentence may follow."""
    return text if text.endswith((".", "…")) else f"{text}."
