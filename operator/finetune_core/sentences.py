"""Builds sentences that quote other messages."""

from __future__ import annotations

from finetune_api.text import clean


def clipped(text: str, longest: int) -> str:
    """``text`` in at most ``longest`` characters; an ellipsis replaces the rest."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: str) -> str:
    """``text`` from elsewhere without line breaks and control characters."""
    return " ".join(clean(text).split())


def sentence(text: str) -> str:
    """``text`` with a full stop, so that another sentence can follow."""
    return text if text.endswith((".", "…")) else f"{text}."
