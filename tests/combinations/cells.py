"""The combinations of task, model family, method and quantisation; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.spec import Quantization
from finetune_api.tables.methods import MethodType
from finetune_api.tables.preferences import PreferenceLoss
from finetune_api.tables.tasks import TASKS, ModelFamily, TaskType

LABEL_LISTS = "with several labels"
TRAINED = tuple(method for method in MethodType if method.row.trains)
"""The methods that train."""


@dataclass(frozen=True)
class Form:
    """A task on a model family, in one of its forms."""

    task: TaskType
    family: ModelFamily
    variant: str = ""
    """A loss of PreferenceTuning, or `LABEL_LISTS`."""

    def __str__(self) -> str:
        return f"{self.task} {self.variant}".rstrip()


@dataclass(frozen=True)
class Cell:
    """One combination."""

    form: Form
    method: MethodType
    quantization: Quantization

    @property
    def name(self) -> str:
        """Such as ``TextClassification:encoder:LoRA:NF4``."""
        return ":".join((str(self.form).replace(" ", "-"), self.form.family, self.method, self.quantization))


def forms() -> Iterator[Form]:
    """Each task on each of its model families."""
    for task, row in TASKS.items():
        for family in row.families:
            if task is TaskType.PREFERENCE_TUNING:
                yield from (Form(task, family, loss) for loss in PreferenceLoss)
            else:
                yield Form(task, family)
            if task is TaskType.TEXT_CLASSIFICATION:
                yield Form(task, family, LABEL_LISTS)


def cells() -> Iterator[Cell]:
    """All combinations."""
    for form in forms():
        for method in TRAINED:
            for quantization in Quantization:
                yield Cell(form, method, quantization)
