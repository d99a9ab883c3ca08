"""Exceptions of libraries in messages."""

from __future__ import annotations


def first_line(error: BaseException, without_message: str | None = None) -> str:
    """The first line of the message of ``error``, at most 300 characters.

    An error without a message gives ``without_message``, by default the name of its type.
    """
    return (str(error).strip().splitlines() or [without_message or type(error).__name__])[0][:300]
