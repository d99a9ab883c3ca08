"""Draws the tokens of answers, so that an answer depends on its prompt and the seed, and not on its batch."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LogitsProcessor

from finetune_trainer.evaluate.metrics import Ints

DEFAULT_TEMPERATURE = 0.8
TOP_P = 0.95
"""The setting of Chen et al. 2021, who introduced pass@k, as is the temperature for many samples."""


def draws(seeds: tuple[int, int], rows: Ints, tokens: int, device: torch.device) -> torch.Tensor:
    """A number from 0 to 1 for each row and token, of shape (rows, tokens).

    Args:
        seeds: The seed of the job, and the number of the sample.
        rows: Indices of the prompts in their split, of shape (rows,).
        tokens: Tokens to draw.
        device: The device of the model.
    """
    drawn = [np.random.default_rng([*seeds, int(row)]).random(tokens, dtype=np.float32) for row in rows]
    return torch.from_numpy(np.stack(drawn)).to(device)


class Sampler(LogitsProcessor):
    """Chooses the next token of each row, so that a greedy generation takes it.

    The candidates are the likeliest tokens that together have `TOP_P` of the probability (Holtzman et al. 2020).
    """

    def __init__(self, drawn: torch.Tensor, temperature: float) -> None:
        """
        Args:
            drawn: Of `draws`.
            temperature: Divides the logits.
        """
        self._drawn = drawn
        self._temperature = temperature
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(scores.float() / self._temperature, dim=-1)
        probabilities, tokens = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        sums = probabilities.cumsum(dim=-1)
        kept = sums - probabilities < TOP_P  # Always the likeliest.
        mass = (probabilities * kept).sum(dim=-1, keepdim=True)
        target = self._drawn[:, self._step : self._step + 1] * mass
        place = (sums <= target).sum(dim=-1, keepdim=True).minimum(kept.sum(dim=-1, keepdim=True) - 1)
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, place), 0.0)


def in_words(samples: int, temperature: float | None) -> str:
    """How the answers were drawn, for evaluation.json and the report."""
    return (
        f"sampling at a temperature of {temperature or DEFAULT_TEMPERATURE:g} from the likeliest tokens that have "
        f"{TOP_P:.0%} of the probability, {samples} answers to each prompt"
    )
