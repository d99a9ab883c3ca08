"""Loads the teacher of a distillation, for training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetune_trainer.modelling.loading import load, set_padding
from finetune_trainer.prepared import DataReport, TeacherReport
from finetune_trainer.tasks.base import TaskForm


def load_teacher(directory: Path, report: DataReport, task: TaskForm, dtype: torch.dtype) -> Any:
    """The teacher, whose weights are frozen and which drops nothing out.

    The logits of a classifier are in the order of the labels of the job. With ZeRO-3, its weights are partitioned.

    Args:
        directory: Directory of the teacher.
        report: The report about the prepared data, with a teacher.
        task: The task of the job.
        dtype: Type of the weights.

    Raises:
        StageFailure: BadConfiguration when it does not fit the task, BadData when its files lack weights.
    """
    teacher = report.teacher
    assert teacher is not None
    chosen = task.model_class(report)
    settings = dict(chosen.settings) | ({} if teacher.attention is None else {"attn_implementation": teacher.attention})
    # The weights of the student must not depend on what the teacher draws.
    with torch.random.fork_rng():
        loaded = load(
            chosen.auto_class,
            directory,
            dtype,
            f"distillation.teacher.uri {teacher.model.uri} ({teacher.model.architecture})",
            **settings,
        )
    model: Any = loaded.complete()
    set_padding(model, report.padding)
    model.config.use_cache = False
    _reorder(model, teacher)
    return model.eval().requires_grad_(False)


def _reorder(model: torch.nn.Module, teacher: TeacherReport) -> None:
    """Let a classifier give its logits in the order of the labels of the job."""
    if teacher.labels in ((), tuple(range(len(teacher.labels)))):
        return

    def reordered(_: torch.nn.Module, __: Any, outputs: Any) -> Any:
        columns = torch.tensor(teacher.labels, device=outputs.logits.device)
        outputs.logits = outputs.logits.index_select(-1, columns)
        return outputs

    model.register_forward_hook(reordered)
