"""Answers that are drawn do not depend on their batch, and have the probabilities of the model."""

from __future__ import annotations

import numpy as np
import torch

from finetune_trainer.evaluate.sampling import TOP_P, Sampler, draws

CPU = torch.device("cpu")


def chosen(logits: torch.Tensor, drawn: torch.Tensor, temperature: float) -> list[int]:
    scores = Sampler(drawn, temperature)(torch.zeros(len(logits), 1, dtype=torch.long), logits)
    return [int(token) for token in scores.argmax(dim=-1)]


def test_tokens_have_the_probabilities_of_the_model() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.03, 0.02])
    rows = 20_000
    drawn = draws((1, 0), np.arange(rows), 1, CPU)
    tokens = np.array(chosen(probabilities.log().expand(rows, -1), drawn, 1.0))
    shares = np.bincount(tokens, minlength=5) / rows
    kept = np.array([0.5, 0.3, 0.15, 0, 0]) / TOP_P
    np.testing.assert_allclose(shares, kept, atol=0.015)


def test_a_low_temperature_is_greedy() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(1))
    assert chosen(logits, draws((1, 0), np.arange(64), 1, CPU), 1e-4) == logits.argmax(dim=-1).tolist()


def test_a_row_is_drawn_alone_as_in_a_batch() -> None:
    together = draws((7, 3), np.array([4, 9, 2]), 5, CPU)
    for position, row in enumerate((4, 9, 2)):
        assert torch.equal(together[position : position + 1], draws((7, 3), np.array([row]), 5, CPU))
    assert not torch.equal(together, draws((7, 4), np.array([4, 9, 2]), 5, CPU))
    assert not torch.equal(together, draws((8, 3), np.array([4, 9, 2]), 5, CPU))


def test_each_step_takes_the_next_number() -> None:
    drawn = torch.tensor([[0.0, 0.99]])
    sampler = Sampler(drawn, 1.0)
    logits = torch.tensor([[0.6, 0.4]]).log()
    steps = [int(sampler(torch.zeros(1, 1, dtype=torch.long), logits).argmax()) for _ in range(2)]
    assert steps == [0, 1]
