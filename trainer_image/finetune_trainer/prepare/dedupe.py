"""What a row says, as a key: equal rows are found by it, within a data set and across splits."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

from finetune_trainer.prepare.rows import Conversation, Example

KEY_BYTES = 16
"""At 2^40 rows two different ones share a key with a chance of 10^-15."""


def normalised(text: str) -> str:
    """``text`` in Unicode NFC with every run of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def content_key(example: Example) -> bytes:
    """The 16 bytes that stand for what an example says.

    A label is not part of it: one text with two labels is a contradiction, of which the first row is kept.
    """
    if isinstance(example, Conversation):
        said = "\0".join(f"{message['role']}\1{normalised(message['content'])}" for message in example.messages)
    else:
        said = normalised(example.text)
    return hashlib.blake2b(said.encode(), digest_size=KEY_BYTES).digest()


def without(keys: Sequence[bytes], *taken: Iterable[bytes]) -> list[int]:
    """Indices of the ``keys`` that are in none of ``taken``: what must not leak is removed."""
    held = set().union(*taken)
    return [index for index, key in enumerate(keys) if key not in held]
