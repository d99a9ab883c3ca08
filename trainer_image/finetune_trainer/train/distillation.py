"""The training loss of a student: that of the task, and the divergence from the logits of its teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finetune_api.spec import DistillationSpec, FineTuneJobSpec, Precision
from finetune_trainer.modelling.divergence import divergence
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.modelling.precision import Hardware, dtype_of
from finetune_trainer.modelling.teacher import load_teacher
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.data import Collator, Features
from finetune_trainer.train.label_weights import LabelWeights

_log = logging.getLogger(__name__)

TEACHER = "teacher"
"""Key of a batch: the inputs of the teacher, which may take others than the student."""
CROSS_ENTROPY = "cross_entropy"
DIVERGENCE = "divergence"
"""In the log history of Trainer: the parts of the loss, before their weights."""

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Distillation:
    """Computes the loss (1 - w) · CE + w · T² · KL(teacher ‖ student) of micro-batches.

    CE is the loss of the task. Both parts are sums over the labels of a micro-batch, divided by those of the whole
    step, so that neither world size nor micro-batches matter.
    """

    def __init__(
        self,
        teacher: Any,
        settings: DistillationSpec,
        task: TaskForm,
        *,
        tokens: int | None,
        weights: LabelWeights | None,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """
        Args:
            teacher: The teacher on its device, or the engine of DeepSpeed that has its parts.
            settings: Temperature and weight.
            task: The task.
            tokens: Logits of token ids from this on are not compared; None for heads of labels or positions.
            weights: Weighs the rows of a classifier, in both parts of the loss.
            autocast: The precision in which the teacher computes.
        """
        self._teacher = teacher
        self._settings = settings
        self._task = task
        self._tokens = tokens
        self._weights = weights
        self._autocast = autocast
        self._parts: torch.Tensor | None = None
        self._step = 0

    def collator(self, student: Collator, pad_token_id: int) -> Collator:
        """The collate function of training rows: the batch of ``student``, with the inputs of the teacher."""
        teacher = self._task.collator(pad_token_id, getattr(self._teacher, "module", self._teacher))

        def collate(rows: list[Features]) -> dict[str, Any]:
            return {**student(rows), TEACHER: teacher(rows)}

        return collate

    def targets(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The decisions of the teacher for a batch, of shape (decisions, classes), without gradients.

        Args:
            inputs: Its part of the batch.
        """
        labels = inputs.pop("labels")
        with torch.no_grad(), self._autocast():
            return self._decisions(logits_of(self._teacher(**inputs)), labels, inputs)

    def loss(
        self,
        of_task: Loss,
        logits: torch.Tensor,
        labels: torch.Tensor,
        count: torch.Tensor,
        *,
        inputs: dict[str, torch.Tensor],
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of a micro-batch.

        Args:
            of_task: The loss of the task.
            logits: Output of the student.
            labels: Labels of the batch.
            count: What the sum over the labels of the step is divided by.
            inputs: What the student has read.
            targets: The result of `targets`.
        """
        weights = self._weights.of(labels[labels != IGNORED_LABEL]) if self._weights else None
        weight, temperature = self._settings.weight, self._settings.temperature
        cross_entropy = of_task(logits, labels, count)
        apart = divergence(self._decisions(logits, labels, inputs), targets, temperature, weights) / count
        self._add(torch.stack([cross_entropy.detach().float(), apart.detach().float()]))
        return (1 - weight) * cross_entropy + weight * temperature**2 * apart

    def begin(self, step: int) -> None:
        """Forget what was measured; ``step`` steps are done."""
        self._parts, self._step = None, step

    def parts(self, step: int) -> dict[str, float]:
        """The means of both parts of the loss over the steps until ``step``; all ranks call this."""
        total = self._parts
        steps, self._parts, self._step = step - self._step, None, step
        if total is None:
            return {}
        if dist.is_initialized():
            dist.all_reduce(total)
        cross_entropy, apart = (total / max(1, steps)).tolist()
        return {CROSS_ENTROPY: cross_entropy, DIVERGENCE: apart}

    def _decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._task.decisions(logits[..., : self._tokens], labels, inputs)

    def _add(self, parts: torch.Tensor) -> None:
        self._parts = parts if self._parts is None else self._parts + parts


def load_distillation(
    directory: Path,
    spec: FineTuneJobSpec,
    report: DataReport,
    *,
    weights: LabelWeights | None,
    precision: Precision,
    device: torch.device,
) -> Distillation:
    """What the teacher in ``directory`` adds to the loss of a job; with ZeRO-3, each rank has a part of its weights.

    Raises:
        StageFailure: As `finetune_trainer.modelling.teacher.load_teacher`.
    """
    assert spec.distillation is not None
    assert report.teacher is not None
    task, hardware = form_of(spec.task.type, report.family), Hardware(device, dtype_of(precision))
    teacher = load_teacher(directory, report, task, hardware.dtype)
    partitioned = spec.distributed.zero.stage == 3
    runs = _engine(teacher, precision) if partitioned else teacher.to(device)
    _log.info("the teacher has %s weights, of which this process keeps %s", *_weights(teacher))
    return Distillation(
        runs,
        spec.distillation,
        task,
        tokens=report.teacher.tokens,
        weights=weights,
        autocast=hardware.autocast,
    )


def _weights(teacher: Any) -> tuple[int, int]:
    """The number of weights of a model, and of those that are in this process."""
    weights = list(teacher.parameters())
    return (
        sum(int(getattr(weight, "ds_numel", weight.numel())) for weight in weights),
        sum(getattr(weight, "ds_tensor", weight).numel() for weight in weights),
    )


def _engine(teacher: Any, precision: Precision) -> Any:
    """The engine of DeepSpeed that runs a teacher whose weights ZeRO-3 has partitioned; it has no optimizer."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=teacher,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": precision is Precision.BF16},
            "fp16": {"enabled": precision is Precision.FP16},
            "zero_optimization": {"stage": 3},
            "steps_per_print": 2**31,
        },
    )
    engine.eval()
    return engine
