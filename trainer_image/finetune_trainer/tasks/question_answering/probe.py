"""A linear span head on the frozen base model: the baseline of an encoder whose own head is random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from finetune_trainer.evaluate.linear_probe import Features, Standardised
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.tasks.question_answering.spans import Logits

TOKENS = 40_000
"""Maximum number of tokens that the head is fitted on, which limits its memory and time."""

REGULARISATION = (1e-4, 1e-2)
"""Candidate weights of the squared norm of the head, for standardised features."""

_ITERATIONS = 40


@dataclass(frozen=True)
class TokenFeatures:
    """Features of the tokens of windows at which an answer may start and end, and of their null positions."""

    values: Features
    """Of shape (tokens, width)."""
    windows: Ints
    """Index of the window of each token, from 0 and ascending."""
    starts: Ints
    """Index of the token at which the answer of each window starts."""
    ends: Ints


class SpanHead:
    """The weights of the head, of shape (width, 2), for standardised features."""

    def __init__(self, fitted_on: Features) -> None:
        self._standardised = Standardised(fitted_on)
        self._weights = torch.zeros(fitted_on.shape[1], 2)

    def fit(self, features: TokenFeatures, strength: float, on_step: Callable[[], None] = lambda: None) -> SpanHead:
        """Minimise the mean cross entropy of starts and ends with L-BFGS; it is convex, so the result is unique."""
        values = torch.from_numpy(self._standardised(features.values))
        windows = torch.from_numpy(features.windows)
        count = int(windows[-1]) + 1
        targets = torch.from_numpy(np.stack([features.starts, features.ends], axis=1))
        index = windows.unsqueeze(1).expand(-1, 2)
        weights = self._weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            logits = values @ weights
            highest = torch.full((count, 2), -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
            sums = torch.zeros(count, 2).index_add(0, windows, (logits - highest[windows]).exp())
            right = logits.gather(0, targets)
            total = (sums.log() + highest - right).mean() + strength * weights.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            on_step()
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        self._weights = weights.detach()
        return self

    def logits(self, features: Features) -> Logits:
        """The logits of tokens as start and as end, of shape (2, tokens)."""
        found: Logits = (self._standardised(features) @ self._weights.numpy()).T
        return found
