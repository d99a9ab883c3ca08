"""The score of the untuned model, where the tuned model is measured against another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
from finetune_trainer.tasks.base import TaskForm


def score_only(inputs: EvaluationInputs, comparison: Comparison) -> EvaluationInputs:
    """``inputs`` with the score of ``comparison`` as the only metric, so that others cost no time."""
    changes = {"metrics": (comparison.metrics[0].name,), "gates": ()}
    evaluation = inputs.spec.evaluation.model_copy(update=changes)
    return replace(inputs, spec=inputs.spec.model_copy(update={"evaluation": evaluation}))


def untuned_score(comparison: Comparison, inputs: EvaluationInputs, task: TaskForm) -> dict[str, Any]:
    """What ``evaluation.json`` says of the untuned model, for its details; empty if it is the baseline anyway.

    Args:
        comparison: The comparison with the previous model.
        inputs: Its inputs.
        task: The task.
    """
    if inputs.previous is None or comparison.metrics[0].baseline is None:
        return {}
    inputs.reporter.progress("measuring the untuned model")
    only = replace(score_only(inputs, comparison), previous=None, tuned_output=comparison.tuned_output)
    found = task.compare(only)
    score = found.metrics[0]
    return {"untuned": {"kind": str(found.baseline), "metric": str(score.name), "value": score.baseline}}
