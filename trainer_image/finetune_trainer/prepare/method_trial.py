"""Tries the settings of the method on the model, before a GPU is held."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from finetune_api.spec import FineTuneJobSpec, Quantization
from finetune_trainer.context import Reporter
from finetune_trainer.importing import heavy_imports
from finetune_trainer.methods import method_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm

_log = logging.getLogger(__name__)
_LARGE_SHARE = 0.5


def check_method(
    spec: FineTuneJobSpec,
    model: Path,
    report: DataReport,
    task: TaskForm,
    reporter: Reporter,
    *,
    adapter: Path | None = None,
) -> DataReport:
    """Check that the settings of the method fit the model, and so does the ``adapter`` that training continues from.

    Torch is imported only if they may not.

    Returns:
        The report, with the number of weights that are rounded, and a note if they are few.

    Raises:
        StageFailure: BadConfiguration when they do not fit.
    """
    rounds = spec.model.quantization is not Quantization.NONE
    if not rounds and adapter is None and not method_of(spec.method.type).needs_trial(spec):
        return report
    reporter.progress("trying the method on the model without weights")
    with heavy_imports():
        from finetune_trainer.train.trial import try_method

    rounded = try_method(model, spec, report, task, adapter)
    if rounded is None:
        return report
    notes = tuple(small_shares(spec.model.quantization, rounded, report.model.parameters))
    for note in notes:
        _log.warning("%s", note)
    return report.model_copy(update={"rounded_parameters": rounded, "notes": (*report.notes, *notes)})


def small_shares(quantization: Quantization, rounded: int, parameters: int) -> Iterator[str]:
    """A note if most of the parameters are not rounded, such as those of fused experts or of a large vocabulary."""
    if parameters and rounded < _LARGE_SHARE * parameters:
        yield (
            f"model.quantization {quantization} saves little memory: {100 * rounded / parameters:.1f} % of the "
            "parameters are in linear layers, and the others keep the precision of the training"
        )
