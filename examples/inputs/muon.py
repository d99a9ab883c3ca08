"""The optimizer Muon (Jordan et al. 2024) in single precision.

`torch.optim.Muon` computes in bfloat16. On a CPU without instructions for it, that takes five times as long as forward
and backward pass of a small model together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with the nearest orthogonal matrix as the update of each matrix, and decoupled weight decay."""

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group)

    def _update(self, matrices: list[torch.Tensor], group: dict[str, float]) -> None:
        ahead = []
        for matrix in matrices:
            average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
            average.lerp_(matrix.grad, 1 - group["momentum"])
            ahead.append(matrix.grad.lerp(average, group["momentum"]))
        rows, columns = matrices[0].shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for matrix, update in zip(matrices, orthogonal(torch.stack(ahead)), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Approximately the nearest orthogonal matrix of each, by Newton-Schulz iterations; of shape (n, rows, columns)."""
    wide = matrices.shape[1] <= matrices.shape[2]
    found = matrices if wide else matrices.mT
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = found @ found.mT
        found = first * found + (second * gram + third * gram @ gram) @ found
    return found if wide else found.mT
