"""Checks the tasks of ``evaluation.harness`` before a GPU is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, HarnessMetric
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.harness.files import fetch_tasks
from finetune_trainer.harness.library import use_library
from finetune_trainer.harness.tasks import HarnessTask, load_tasks

_MOST_ROWS = 40
"""Metrics of all tasks; each is a row of the report and a time series."""


def check_harness(
    spec: FineTuneJobSpec, family: ModelFamily, scratch: Path, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Check that lm-eval, the tasks and their data are there, and that the tasks measure what gates name.

    Raises:
        StageFailure: BadConfiguration (no lm-eval here, no text from this model, an invalid task, a gate on a metric
            that its task lacks), NotFound (no such task or data set), BadData (invalid data), Unavailable (the hub does
            not respond), and the failures of storage.
    """
    evaluation = spec.evaluation
    if not evaluation.harness:
        return
    if family is ModelFamily.ENCODER:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"evaluation.harness measures models that predict text, and {spec.model.uri} is an encoder: remove it, or "
            "choose another model",
        )
    progress("checking the tasks of lm-eval")
    use_library()
    files = fetch_tasks(evaluation.harness_path, scratch) if evaluation.harness_path else None
    tasks = load_tasks(evaluation.harness, files, scratch)
    names = [metric for task in tasks for metric in task.measures]
    if len(names) > _MOST_ROWS:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The tasks of evaluation.harness have {len(names)} metrics, more than {_MOST_ROWS}: name fewer tasks",
        )
    _check_gates([gate.metric for gate in evaluation.gates if isinstance(gate.metric, HarnessMetric)], tasks)


def _check_gates(gated: Sequence[HarnessMetric], tasks: Sequence[HarnessTask]) -> None:
    measures = {task.name: list(task.measures) for task in tasks}
    for metric in gated:
        known = measures[metric.task]
        if metric not in known:
            close = get_close_matches(metric, known, 1)
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"evaluation.gates names {metric}, but {metric.task} measures {', '.join(known)}"
                + (f"; did you mean {close[0]}?" if close else ""),
            )
