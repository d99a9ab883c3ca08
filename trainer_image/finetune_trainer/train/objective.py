"""What training minimises, if that is no mean of a loss over labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from finetune_trainer.train.batches import IndexArray
from finetune_trainer.train.data import Collator, TrainingDataset

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """The training as a rank sees it."""

    model: Any
    """The engine of DeepSpeed, or the model itself."""
    device: torch.device
    rank: int
    world: int
    rows: int
    """Rows in a batch of a rank without gradients."""
    collate: Collator
    prepare: Callable[[Batch], Batch]
    """Moves a batch to the device."""
    alive: Callable[[], None]
    """Called after each batch without gradients."""
    reference: Any
    """The base model; the model itself if that is the base model before the first step."""

    def batches(self, data: TrainingDataset) -> Iterable[tuple[list[int], Batch]]:
        """The batches of this rank of all rows of ``data``: the indices of the rows that count, and the batch.

        All ranks get equally many batches, so that each can take part in every collective.
        """
        for rows, counts in shared_batches(data.lengths, self.rows, self.world, self.rank):
            yield rows if counts else [], self.prepare(self.collate([data[row] for row in rows]))
            self.alive()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` over all ranks, on the device."""
        values = values.to(self.device)
        if dist.is_initialized():
            dist.all_reduce(values)
        return values


class Objective(Protocol):
    """A loss that compares rows or models, and takes several outputs of the model to compute."""

    def begin(self, run: Run, checkpoint: Path | None) -> None:
        """Called by all ranks before the first step; ``checkpoint`` is that from which training resumes."""

    def save(self, checkpoint: Path) -> None:
        """Write to a checkpoint what a resumed attempt needs; one rank calls this."""

    def begin_step(self, run: Run, batches: Sequence[Batch]) -> torch.Tensor:
        """What the losses of all micro-batches of a step have in common; ``batches`` are those of this rank."""

    def loss(self, model: Any, batch: Batch, step: torch.Tensor) -> torch.Tensor:
        """The part of a micro-batch in the loss of its step: the parts of all ranks and micro-batches add up to it.

        Args:
            model: The model with gradients.
            batch: The micro-batch.
            step: The result of `begin_step`.
        """

    def validation_loss(self, run: Run) -> float:
        """The loss of the validation split, the same on all ranks."""


def shared_batches(lengths: IndexArray, size: int, world: int, rank: int) -> list[tuple[list[int], bool]]:
    """The batches of a rank, longest first, and whether each counts.

    Ranks with fewer batches get extra ones that do not count, because ZeRO-3 gathers weights on all ranks.

    Args:
        lengths: Tokens of each row, of shape (rows,).
        size: Rows in a batch.
        world: World size.
        rank: Global rank.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    own = [(batch, True) for batch in batches[rank::world]]
    most = -(-len(batches) // world)
    return own + [(batches[-1], False)] * (most - len(own))
