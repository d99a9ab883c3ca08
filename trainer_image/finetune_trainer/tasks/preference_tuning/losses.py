"""The losses of PreferenceTuning, as functions of log-probabilities in nats. They equal those of TRL's trainers, except
that ORPO's likelihood term covers the answer, and not the prompt.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, logsigmoid

LARGEST_MEAN = -1e-7
"""Largest log-probability per token for which the odds of an answer are finite in float32."""


def answer_log_probabilities(logits: torch.Tensor, tokens: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """The sum of the log-probabilities of the tokens of each answer.

    Args:
        logits: Of shape (rows, tokens, vocabulary).
        tokens: Token ids, of shape (rows, tokens).
        answers: Whether each token belongs to the answer, of the same shape.

    Returns:
        Sums of shape (rows,), in float32.
    """
    wanted = answers[:, 1:]
    found = -cross_entropy(logits[:, :-1][wanted].float(), tokens[:, 1:][wanted], reduction="none")
    return torch.zeros(wanted.shape, device=logits.device).masked_scatter(wanted, found).sum(dim=1)


def dpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of each pair (Rafailov et al. 2023, equation 7).

    Args:
        chosen: Log-probability of the chosen answer, minus that of the reference, of shape (rows,).
        rejected: The same of the rejected answer.
        beta: Factor of rewards.
    """
    return -logsigmoid(beta * (chosen - rejected))


def odds(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """The odds ratio term of ORPO for each pair, before its weight (Hong et al. 2024, equation 7).

    Args:
        chosen: Mean log-probability of the tokens of the chosen answer, of shape (rows,).
        rejected: The same of the rejected answer.
    """
    # The odds of a certain answer are infinite.
    chosen, rejected = chosen.clamp(max=LARGEST_MEAN), rejected.clamp(max=LARGEST_MEAN)
    ratio = chosen - rejected - (torch.log(-torch.expm1(chosen)) - torch.log(-torch.expm1(rejected)))
    return -logsigmoid(ratio)


def kto(
    gains: torch.Tensor, desirable: torch.Tensor, divergence: torch.Tensor, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """The loss of each answer (Ethayarajh et al. 2024, equation 8).

    Args:
        gains: Log-probability of the answer, minus that of the reference, of shape (rows,).
        desirable: Whether the answer is desirable, of shape (rows,).
        divergence: Estimate of the KL divergence of the model from the reference, at least 0; without gradient.
        beta: Factor of rewards.
        weights: Weights of undesirable and desirable answers.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, weights[1], weights[0])
    return weight * (1 - torch.sigmoid(beta * sign * (gains - divergence)))
