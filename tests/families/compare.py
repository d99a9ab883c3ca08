"""Comparison of logits."""

from __future__ import annotations

import torch

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
