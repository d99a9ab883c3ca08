"""EVA: LoRA adapters that start with the directions of the inputs of their modules.

Paischer et al. 2024, with the implementation of PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import initialize_lora_eva_weights

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line
from finetune_trainer.methods.base import Batch, Batches, BatchesOf

_PASSES = 256
"""Batches after which directions that still change are given up. On text, two to ten are usual."""


def start_from_inputs(model: Any, rank: int, batches_of: BatchesOf) -> None:
    """Give every A of ``model``, a PeftModel, the largest directions of the inputs of its module.

    Every rank computes the same from the same batches, so nothing is gathered.

    Args:
        model: The model.
        rank: Rank of the adapters.
        batches_of: Batches of the training data with at least that many examples each; empty if there are not enough.

    Raises:
        StageFailure: BadConfiguration when the data does not determine so many directions.
    """
    # A module may get one input for each example, such as the pooler of an encoder.
    batches = batches_of(rank)
    if not len(batches):
        raise _bad(f"needs at least {rank} training examples for rank {rank}: add examples or lower method.lora.rank")
    try:
        with torch.no_grad():
            initialize_lora_eva_weights(
                model,
                RepeatedBatches(batches),
                forward_fn=_forward,
                prepare_model_inputs_fn=lambda inputs, _: _masks(inputs),
                prepare_layer_inputs_fn=_real_inputs,
                gather_distributed_inputs=False,
                show_progress_bar=False,
            )
    except ValueError as error:
        raise _bad(f"does not fit this model: {first_line(error)}") from error


class RepeatedBatches:
    """Batches that PEFT repeats until all directions have settled, which they need not do."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._given = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self._batches:
            self._given += 1
            if self._given > _PASSES:
                raise _bad(
                    f"has not settled after {_PASSES} batches, because the inputs of a module have fewer directions "
                    "than the rank: lower method.lora.rank or choose another initialization"
                )
            yield dict(batch)


def _forward(model: Any, inputs: Batch) -> None:
    model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})


def _masks(inputs: Batch) -> dict[str, torch.Tensor]:
    """Which tokens are real, of shape (rows, tokens): ``encoder`` or the only ones, and ``decoder``."""
    masks = {}
    if "attention_mask" in inputs and inputs["attention_mask"].ndim == 2:
        masks["encoder"] = inputs["attention_mask"].bool()
    if "decoder_input_ids" in inputs:
        masks["decoder"] = inputs["labels"] != -100
    return masks


def _real_inputs(layer_input: Any, masks: Mapping[str, torch.Tensor], layer_name: str) -> torch.Tensor:
    """The inputs of a module without those of padding, of shape (inputs, width)."""
    values: torch.Tensor = layer_input if isinstance(layer_input, torch.Tensor) else layer_input[0]
    first = "decoder" if ".decoder." in layer_name else "encoder"
    for name in sorted(masks, key=lambda name: name != first):
        if values.ndim == 3 and values.shape[:2] == masks[name].shape:
            return values[masks[name]]
    return values.reshape(-1, values.shape[-1])


def _bad(text: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, f"method.lora.initialization EVA {text}")
