"""The teacher of a distillation beside its student: scores on the test split, size and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.evaluation import Costs
from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs, PreviousModel
from finetune_trainer.evaluate.speed import SpeedTest
from finetune_trainer.evaluate.teacher_answers import beside_answers
from finetune_trainer.json_files import read_json_if_present
from finetune_trainer.methods.base import Loader
from finetune_trainer.modelling.teacher import load_teacher
from finetune_trainer.row_hashes import LearnedRows
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.tasks.teachable import ScoresAnswers


@dataclass(frozen=True)
class _Loaded:
    """Loads the teacher where a comparison loads a model that was published before; see `Method.tuned`."""

    inputs: EvaluationInputs
    task: TaskForm

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        hardware = self.inputs.hardware
        return load_teacher(trained, self.inputs.data, self.task, hardware.dtype).to(hardware.device)


def beside_teacher(comparison: Comparison, inputs: EvaluationInputs, task: TaskForm) -> tuple[Comparison, Costs | None]:
    """``comparison`` with the scores of the teacher, measured in the same way, and size and speed of both models.

    Raises:
        StageFailure: As `TaskForm.compare`.
    """
    if inputs.data.responses:
        assert isinstance(task, ScoresAnswers)  # Its preparation is `Teachable`.
        return beside_answers(comparison, inputs, task), _costs(inputs, task, None)
    if inputs.teacher is None:
        return comparison, None
    inputs.reporter.progress("measuring the teacher")
    loaded = _Loaded(inputs, task)
    teacher = PreviousModel(inputs.teacher.path, loaded, {}, LearnedRows(), virtual_tokens=0)
    found = task.compare(replace(inputs, start=None, previous=teacher, tuned_output=comparison.tuned_output))
    scores = {metric.name: metric.baseline for metric in found.metrics}
    metrics = tuple(metric.model_copy(update={"teacher": scores.get(metric.name)}) for metric in comparison.metrics)
    tables = {name: _beside(table, found.tables[name]) for name, table in comparison.tables.items()}
    return replace(comparison, metrics=metrics, tables=tables), _costs(inputs, task, loaded)


def _beside(table: Sequence[Mapping[str, Any]], of_teacher: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table with those of the teacher, which has the place of the baseline in ``of_teacher``."""
    return [{**row, "teacher": other["baseline"]} for row, other in zip(table, of_teacher, strict=True)]


def _costs(inputs: EvaluationInputs, task: TaskForm, teacher: _Loaded | None) -> Costs:
    """Size and speed of the student, and of its teacher if that is loaded."""
    inputs.reporter.progress(f"measuring the speed of {'student and teacher' if teacher else 'the student'}")
    speed = SpeedTest(inputs, task)
    student = speed.cost(inputs.method.tuned(inputs.load, inputs.base, inputs.trained))
    if inputs.rounding is not None:  # A number in its tensors holds several parameters.
        trained = read_json_if_present(inputs.trained / layout.TRAINING).get("trainableParameters", 0)
        student = student.model_copy(update={"parameters": inputs.data.model.parameters + trained})
    measured = None
    if teacher:
        assert inputs.teacher is not None
        measured = speed.cost(teacher.tuned(inputs.load, inputs.base, inputs.teacher.path))
    return Costs(student=student, teacher=measured, device=inputs.hardware.device.type)
