"""The loss of each token of texts that a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.generation import LIMITS, OnExamples
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import BatchLimits, each_batch, length_sorted
from finetune_trainer.modelling.loading import check_finite
from finetune_trainer.prepared import IGNORED_LABEL, DataReport

LOGITS_AT_ONCE = 1 << 28  # Elements, 1 GiB as float32.


class Scored(Protocol):
    """Rows of tokens, some of which are predicted."""

    lengths: Ints
    """Tokens of each row, of shape (rows,)."""

    def score(self, model: Any, batch: Ints, padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Run ``model`` on rows; see `finetune_trainer.evaluate.prompts.Prompts.score`."""


@dataclass(frozen=True)
class TokenScores:
    """Results of a model; an array of shape (predicted tokens,) for each row."""

    losses: list[NDArray[np.float32]]
    """In nats."""
    hits: list[NDArray[np.bool_]]
    """Whether the token has the highest logit."""


def token_scores(inputs: EvaluationInputs, rows: Scored, name: str, model: Any, on_examples: OnExamples) -> TokenScores:
    """The scores of ``model``, the baseline or the tuned model as ``name`` says, for all predicted tokens of ``rows``.

    Raises:
        StageFailure: Diverged (a loss that is not finite), OutOfMemory.
    """
    device = inputs.hardware.device
    limits = limits_of(model, inputs.data, device.type)
    losses = [np.empty(0, np.float32)] * len(rows.lengths)
    hits = [np.empty(0, np.bool_)] * len(rows.lengths)

    def work(batch: Ints) -> None:
        with torch.inference_mode(), inputs.hardware.autocast():
            logits, targets = rows.score(model, batch, inputs.data.padding, device)
        learned = targets != IGNORED_LABEL
        chosen, wanted = logits[learned].float(), targets[learned]
        values = torch.nn.functional.cross_entropy(chosen, wanted, reduction="none")
        check_finite(values, name, "loss")
        ends = learned.sum(dim=1).cumsum(dim=0)[:-1].cpu().numpy()
        found = zip(
            batch.tolist(),
            np.split(values.cpu().numpy(), ends),
            np.split((chosen.argmax(dim=-1) == wanted).cpu().numpy(), ends),
            strict=True,
        )
        for index, of_row, hits_of_row in found:
            # Copies, so that the arrays of the whole batch are freed.
            losses[index], hits[index] = of_row.copy(), hits_of_row.copy()
        on_examples(len(batch))

    each_batch(length_sorted(rows.lengths, limits), work)
    return TokenScores(losses, hits)


def limits_of(model: Any, data: DataReport, device: str) -> BatchLimits:
    """The largest batch of `token_scores` on ``device``, which is ``cpu`` or ``cuda``."""
    most = LIMITS[device]
    vocabulary = model.config.get_text_config().vocab_size
    limits = BatchLimits(most.examples, min(most.tokens, LOGITS_AT_ONCE // vocabulary))
    return limits.unless_alone(data.handling.batching)
