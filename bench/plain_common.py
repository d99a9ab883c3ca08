"""Shared by the plain scripts: the DeepSpeed configuration, the order of rows, and the count of tokens per second."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from finetune_trainer.train.batches import global_batches

ZERO_2 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    },
}


def batches_of_job(lengths: Any, batch: int, seed: int, steps: int) -> list[list[int]]:
    """The rows of each step of a job with one process, by their tokens; the only thing that is taken from its code."""
    order: list[list[int]] = []
    for epoch in itertools.count():
        if len(order) >= steps:
            return order[:steps]
        batches = global_batches(lengths, batch, seed, epoch).tolist()
        order += [[index for index in rows if index >= 0] for rows in batches]
    return order


class Speedometer(TrainerCallback):
    """Real tokens per second after the warm-up steps. The script calls ``count`` for each batch of its rank."""

    def __init__(self, warm_up_steps: int) -> None:
        self._warm_up_steps = warm_up_steps
        self._tokens = 0
        self._counted_from = 0
        self._began = 0.0
        self._ended = 0.0
        self._device = torch.device("cpu")

    def count(self, tokens: int) -> None:
        self._tokens += tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._device = args.device
        if state.global_step == self._warm_up_steps:
            self._began, self._counted_from = time.perf_counter(), self._tokens
        self._ended = time.perf_counter()

    def result(self, validation_loss: float) -> str:
        counts = torch.tensor([self._tokens - self._counted_from, self._tokens], device=self._device)
        dist.all_reduce(counts)
        return json.dumps(
            {
                "tokensPerSecond": float(counts[0]) / (self._ended - self._began),
                "tokens": int(counts[1]),
                "validationLoss": validation_loss,
            }
        )
