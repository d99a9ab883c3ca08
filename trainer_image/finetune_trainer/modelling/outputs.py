"""Inputs and outputs of models that depend on their class."""

from __future__ import annotations

from typing import Any

import torch


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits of a model; those of a span head, for the start and the end, as one tensor (batch, 2, tokens)."""
    logits = getattr(outputs, "logits", None)
    if logits is not None:
        found: torch.Tensor = logits
        return found
    return torch.stack([outputs.start_logits, outputs.end_logits], dim=1)


def takes_token_types(model: Any) -> bool:
    """Whether a model tells two texts in one sequence apart by ``token_type_ids``, as its configuration says."""
    return (getattr(model.config.get_text_config(), "type_vocab_size", None) or 0) > 1
