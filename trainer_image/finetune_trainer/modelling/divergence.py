"""How far a student is from its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

_AGAIN: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
_CHUNK_VALUES = 1 << 24
"""Logits that are converted to FP32 at the same time: 64 MiB of each model."""


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of KL(teacher ‖ student) over all decisions, in nats (Hinton et al. 2015, without T²).

    It is computed in parts, each of which the backward pass computes again, because the probabilities of a large
    vocabulary would take several times the memory of its logits.

    Args:
        student: Logits of shape (decisions, classes).
        teacher: Likewise; without gradients.
        temperature: What both are divided by.
        weights: How much each decision counts, of shape (decisions,); None if all count 1.
    """
    rows = max(1, _CHUNK_VALUES // max(1, student.shape[-1]))
    total = student.float().sum() * 0 if not len(student) else student.new_zeros((), dtype=torch.float32)
    for start in range(0, len(student), rows):
        part = slice(start, start + rows)
        chosen = None if weights is None else weights[part]
        total = total + checkpoint(_part, student[part], teacher[part], temperature, chosen, **_AGAIN)
    return total


def _part(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weights: torch.Tensor | None
) -> torch.Tensor:
    ours, theirs = (log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    found = kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
    return (found if weights is None else found * weights).sum()
