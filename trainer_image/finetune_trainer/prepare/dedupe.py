"""Keys of row contents, which identify equal rows within a data set and across splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from finetune_trainer.prepare.rows import Example, Grouped

KEY_BYTES = 16
"""With 2^40 rows, the probability of a collision is about 10^-15."""


def content_key(example: Example) -> bytes:
    """A 16-byte hash of the content of an example."""
    return hashlib.blake2b(example.content.encode(), digest_size=KEY_BYTES).digest()


def group_key(example: Example, key: bytes) -> bytes:
    """A 16-byte hash of what must not be divided between splits: the group of an example, or its content.

    Args:
        example: The example.
        key: Its `content_key`.
    """
    if not isinstance(example, Grouped):
        return key
    return hashlib.blake2b(example.group.encode(), digest_size=KEY_BYTES).digest()


def without(keys: Sequence[bytes], *taken: Iterable[bytes]) -> list[int]:
    """Indices of the ``keys`` that are in none of ``taken``."""
    excluded = set().union(*taken)
    return [index for index, key in enumerate(keys) if key not in excluded]
