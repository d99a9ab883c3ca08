"""Comparison of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.families.tiny import VOCABULARY

TOLERANCE = 2e-3
"""Largest difference of logits, relative to their standard deviation, that counts as rounding."""


class Wrong(Exception):
    """A check that failed, in words."""


def require_close(where: str, expected: list[torch.Tensor], actual: list[torch.Tensor]) -> None:
    """Compare logits, relative to their spread."""
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape:
            raise Wrong(f"{where}, the logits have the shape {tuple(other.shape)} instead of {tuple(one.shape)}")
        if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
            raise Wrong(f"{where}, logits are not finite")
        worst = max(worst, distance(one, other))
    if worst > TOLERANCE:
        raise Wrong(f"{where}, logits differ by {worst:.1g} of their spread")


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors of logits, relative to their standard deviation."""
    return float((one - other).abs().max() / one.std().clamp(min=1e-6))


def sees_the_future(model: Any, row: Any) -> bool:
    """Whether the logits before the last token depend on it."""
    tokens = torch.from_numpy(row.astype(np.int64))[None]
    changed = tokens.clone()
    changed[0, -1] = changed[0, -1] % (VOCABULARY - 1) + 1
    with torch.inference_mode():
        before, after = (
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
            for ids in (tokens, changed)
        )
    return distance(before, after) > TOLERANCE
