"""Labels in the answers of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence


def label_of(answer: str, labels: Sequence[str]) -> int | None:
    """The index of the label that an answer consists of, up to case, white space and a full stop; None if it is no
    label."""
    text = answer.strip()
    for one in (text, text.removesuffix(".")):
        if one in labels:
            return labels.index(one)
    folded = [label.casefold() for label in labels]
    for one in (text.casefold(), text.casefold().removesuffix(".")):
        if one in folded:
            return folded.index(one)
    return None


def labels_of(answer: str, labels: Sequence[str]) -> list[int] | None:
    """The indices of the labels in an answer, a JSON list, or labels with commas between them; None if it is neither.

    No label is an empty JSON list.
    """
    text = answer.strip()
    if (whole := label_of(text, labels)) is not None:
        return [whole]
    items: list[object] = [*text.split(",")]
    if text.startswith("["):
        try:
            items = json.loads(text)
        except ValueError:
            return None
    found = [label_of(item, labels) if isinstance(item, str) else None for item in items]
    indices = [index for index in found if index is not None]
    return list(dict.fromkeys(indices)) if len(indices) == len(found) else None
