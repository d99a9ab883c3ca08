"""Tries the settings of the method on the model, before a GPU is held."""

from __future__ import annotations

from pathlib import Path

from finetune_api.spec import FineTuneJobSpec, Quantization
from finetune_trainer.context import Reporter
from finetune_trainer.importing import heavy_imports
from finetune_trainer.methods import method_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm


def check_method(
    spec: FineTuneJobSpec, model: Path, report: DataReport, task: TaskForm, reporter: Reporter
) -> DataReport:
    """Check that the settings of the method fit the model; torch is imported only if they may not.

    Returns:
        The report, with the number of weights that are rounded.

    Raises:
        StageFailure: BadConfiguration when they do not fit.
    """
    if not method_of(spec.method.type).needs_trial(spec) and spec.model.quantization is Quantization.NONE:
        return report
    reporter.progress("trying the method on the model without weights")
    with heavy_imports():
        from finetune_trainer.train.trial import try_method

    return report.model_copy(update={"rounded_parameters": try_method(model, spec, report, task)})
