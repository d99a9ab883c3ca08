"""Measures how large and how fast models are, with the same batches of the test split."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from finetune_api.evaluation import ModelCost
from finetune_trainer.evaluate.comparison import SPLIT, EvaluationInputs
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.base import TaskForm

_ROWS = 128
_BATCH_ROWS = {"cpu": 16, "cuda": 64}
_LEAST_SECONDS = 0.5


class SpeedTest:
    """Forward passes over some rows of the test split, as in training, but without gradients."""

    def __init__(self, inputs: EvaluationInputs, task: TaskForm) -> None:
        self._hardware, self._task, self._padding = inputs.hardware, task, inputs.data.padding
        one_each = inputs.data.handling.model_copy(update={"packing": False})
        data = inputs.data.model_copy(update={"handling": one_each})
        self._rows = task.dataset(open_split(inputs.prepared, SPLIT), inputs.spec, data)
        drawn = np.random.default_rng(inputs.spec.training.seed).permutation(len(self._rows))[:_ROWS]
        ordered = drawn[np.argsort(-self._rows.lengths[drawn], kind="stable")]
        size = _BATCH_ROWS[self._hardware.device.type] if inputs.data.handling.batching else 1
        self._batches = [ordered[start : start + size].tolist() for start in range(0, len(ordered), size)]

    def cost(self, model: Any) -> ModelCost:
        """The size of ``model`` in memory, and its speed: that of whole passes over the rows."""
        collate = self._task.collator(self._padding, model)
        batches = [collate([self._rows[row] for row in batch]) for batch in self._batches]
        for batch in batches:
            del batch["labels"]
        self._run(model, batches[0])  # Starts kernels and caches.
        rows, tokens, passed = 0, 0, 0.0
        while passed < _LEAST_SECONDS:
            for chosen, batch in zip(self._batches, batches, strict=True):
                passed += self._run(model, batch)
                rows, tokens = rows + len(chosen), tokens + int(self._rows.lengths[chosen].sum())
        weights = list(model.parameters())
        return ModelCost(
            parameters=sum(weight.numel() for weight in weights),
            bytes=sum(weight.numel() * weight.element_size() for weight in weights),
            rows_per_second=rows / passed,
            tokens_per_second=tokens / passed,
        )

    def _run(self, model: Any, batch: dict[str, torch.Tensor]) -> float:
        """The duration of a forward pass in seconds."""
        device = self._hardware.device
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        self._wait()
        start = time.perf_counter()
        with torch.inference_mode(), self._hardware.autocast():
            model(**inputs)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self._hardware.device.type == "cuda":
            torch.cuda.synchronize(self._hardware.device)
