"""The score of an adapter on the base model as it is, for one that was trained on a rounded base model."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

import psutil
import torch

from finetune_api.evaluation import MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
from finetune_trainer.evaluate.pairing import paired_results
from finetune_trainer.evaluate.untuned import score_only
from finetune_trainer.host.memory import free_bytes
from finetune_trainer.tasks.base import TaskForm

_MARGIN = 1.2
"""Memory of a model with its activations, relative to its weights."""


@dataclass(frozen=True)
class ExactBase:
    """What was measured on the base model that is not rounded."""

    result: MetricResult | None = None
    """The score there (tuned), and on the rounded base model (baseline)."""
    notes: tuple[str, ...] = ()
    """Why it was not measured."""


def on_exact_base(comparison: Comparison, inputs: EvaluationInputs, task: TaskForm) -> ExactBase:
    """Measure the score on the base model that is not rounded; nothing if ``inputs`` has no rounding, or nothing was
    trained that could be used on that model.

    Only the score is measured, so that a metric of generated answers costs no time unless it is the score.

    Args:
        comparison: The comparison on the rounded base model.
        inputs: Its inputs.
        task: The task.
    """
    if inputs.rounding is None or not inputs.spec.method.type.row.trains:
        return ExactBase()
    try:
        return ExactBase(_measured(comparison, inputs, task))
    except _NotMeasured as problem:
        return ExactBase(notes=(f"the adapter was not measured on the exact base model: {problem}"[:200],))


class _NotMeasured(Exception):
    pass


def _measured(comparison: Comparison, inputs: EvaluationInputs, task: TaskForm) -> MetricResult:
    needed, free = _MARGIN * inputs.data.model.parameters * inputs.hardware.dtype.itemsize, _free(inputs)
    if needed > free:
        raise _NotMeasured(f"it needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")
    inputs.reporter.progress("measuring the adapter on the base model without quantization")
    score = comparison.metrics[0].name
    try:
        exact = task.compare(replace(score_only(inputs, comparison), rounding=None))
    except (torch.OutOfMemoryError, MemoryError):
        raise _NotMeasured("it did not fit in the memory") from None
    except StageFailure as failure:
        if failure.reason is not Reason.OUT_OF_MEMORY:
            raise
        raise _NotMeasured("it did not fit in the memory") from None
    before = replace(comparison, metrics=comparison.metrics[:1])
    paired = paired_results(comparison.predictions, exact.predictions, before, exact)
    if not paired:
        raise _NotMeasured(f"its predictions do not determine the interval of {score.row.title}")
    return paired[0]


def _free(inputs: EvaluationInputs) -> int:
    """Bytes that are free where the model would be."""
    gc.collect()
    if inputs.hardware.device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    return min(int(psutil.virtual_memory().available), free_bytes())
