"""Whether training went on after the validation loss had begun to rise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_RISE = 1.1
"""A smaller rise over the lowest loss may be the noise of few validation rows."""


def overfitting(validation: Sequence[Mapping[str, Any]]) -> list[str]:
    """A clause if the last validation loss is well above the lowest one.

    Args:
        validation: Points of the validation curve in order, each with ``step`` and ``loss``.
    """
    if not validation:
        return []
    lowest = min(validation, key=lambda point: float(point["loss"]))
    last = validation[-1]
    if last["loss"] <= _RISE * lowest["loss"]:
        return []
    return [
        f"the validation loss was lowest at step {lowest['step']:,} ({lowest['loss']:.4g}) and ended at "
        f"{last['loss']:.4g}: the model overfits, and fewer epochs may give a better one"
    ]
