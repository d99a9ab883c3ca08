"""Batches of the training data before training, the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from finetune_trainer.train.data import Collator, TrainingDataset

_MOST_BATCHES = 64


class FirstBatches:
    """Batches of random rows, which are collated when they are read; see `finetune_trainer.methods.base.Batches`."""

    def __init__(
        self,
        data: TrainingDataset,
        rows: int,
        *,
        seed: int,
        collate: Collator,
        device: torch.device,
        alive: Callable[[], None],
    ) -> None:
        """
        Args:
            data: The training rows.
            rows: Rows in a batch; rows that do not fill a batch are left out.
            seed: Seed of the order of the rows.
            collate: Makes a batch of rows.
            device: Device of the batches.
            alive: Called before each batch, as a sign of life.
        """
        order = np.random.default_rng(seed).permutation(len(data.lengths))
        batches = min(len(order) // rows, _MOST_BATCHES)
        self._rows = order[: batches * rows].reshape(batches, rows).tolist()
        self._data = data
        self._collate = collate
        self._device = device
        self._alive = alive

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows in self._rows:
            self._alive()
            batch = self._collate([self._data[row] for row in rows])
            yield {name: tensor.to(self._device) for name, tensor in batch.items()}
