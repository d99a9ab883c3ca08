"""Generated answers to validation examples, at each validation in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.evaluate.answer_scoring import AnswerForm, AnswerScoring, Samples, score
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.metrics import TEACHER_FORCED, Ints
from finetune_trainer.evaluate.prompts import Prompts
from finetune_trainer.modelling.batching import BatchLimits

_TOKENS_AT_ONCE = 1 << 17


class ValidationAnswers:
    """Measures the metrics of generated answers to the same examples again and again.

    All ranks make as many batches, because with ZeRO-3 each step of generation gathers weights from all of them. The
    answers are greedy or from a beam search, so they change neither the weights nor the state of a random generator.
    """

    def __init__(
        self,
        validation: pa.Table,
        form: AnswerForm,
        spec: FineTuneJobSpec,
        generator: Generator,
        batch_size: int,
    ) -> None:
        """
        Args:
            validation: The validation split.
            form: The form of its rows.
            spec: The spec of the job, with evaluation.duringTraining.
            generator: Generates with the settings of the job.
            batch_size: Maximum number of prompts in a batch.
        """
        assert spec.evaluation.during_training is not None
        chosen = _sample(len(validation), spec.evaluation.during_training.examples, spec.training.seed)
        table = validation.take(pa.array(chosen))
        self._prompts: Prompts = form.prompts.of_table(table)
        self._scoring: AnswerScoring = form.scoring(table, spec)
        self._metrics = [metric for metric in spec.metrics if metric not in TEACHER_FORCED]
        self._generator = generator
        limits = BatchLimits(batch_size, _TOKENS_AT_ONCE)
        self._batches = [
            (limit, batch) for limit, batches in generator.batches(self._prompts, limits) for batch in batches
        ]

    def measure(self, model: Any, alive: Callable[[], None]) -> dict[Metric, float]:
        """The metrics of the answers of ``model``, the same on all ranks; without those that no example has a part in.

        Args:
            model: The model, without the engine of DeepSpeed.
            alive: Called every few seconds.
        """
        texts = self._texts(model, alive)
        found = {metric: score(self._scoring, metric, texts) for metric in self._metrics}
        return {metric: value for metric, value in found.items() if value is not None}

    def _texts(self, model: Any, alive: Callable[[], None]) -> list[Samples]:
        """The answers to all prompts, one to each, which one rank generates."""
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        own: dict[int, str] = {}
        for first in range(0, len(self._batches), world):
            # Ranks without a batch repeat the last one.
            limit, batch = self._batches[min(first + rank, len(self._batches) - 1)]
            with torch.no_grad():  # Weights that ZeRO-3 gathers in inference mode could not be trained afterwards.
                answers = self._generator.generated(model, self._prompts, batch, limit, lambda _: alive())
            own |= {
                index: self._scoring.read(index, one.text) for index, one in zip(batch.tolist(), answers, strict=True)
            }
            alive()
        parts: list[dict[int, str]] = [own]
        if world > 1:
            parts = [{} for _ in range(world)]
            dist.all_gather_object(parts, own)
        gathered = {index: text for part in parts for index, text in part.items()}
        return [(gathered[index],) for index in range(len(gathered))]


def _sample(rows: int, count: int, seed: int) -> Ints:
    """Indices of at most ``count`` of ``rows`` rows, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])
