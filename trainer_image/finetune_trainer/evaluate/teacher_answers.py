"""The answers of a teacher to the prompts of the test split beside those of its student.

Prepare has asked for them. An answer that cannot be used counts as an empty one, as from a student that says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.evaluation import MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.answer_scoring import AnswerForm, AnswerScoring, Samples
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs
from finetune_trainer.evaluate.metrics import TEACHER_FORCED, ratio
from finetune_trainer.splits import open_split

_DETAILS = "teacher"


def beside_answers(comparison: Comparison, inputs: EvaluationInputs, form: AnswerForm) -> Comparison:
    """``comparison`` with the scores of the answers of the teacher, and these in its predictions.

    Args:
        comparison: That of the student.
        inputs: Inputs of the evaluation.
        form: How answers of the task are measured.
    """
    table = open_split(inputs.prepared, SPLIT)
    stored = read_answers(inputs.prepared)
    rows = [stored[source] for source in table["source"].to_pylist()]
    scoring = form.scoring(table, inputs.spec)
    answers: list[Samples] = [[scoring.read(index, row["answer"] or "")] for index, row in enumerate(rows)]
    metrics = tuple(
        metric.model_copy(update={"teacher": _score(metric, scoring, answers)}) for metric in comparison.metrics
    )
    predictions = [
        prediction | {"teacher": row["answer"]} for prediction, row in zip(comparison.predictions, rows, strict=True)
    ]
    details = comparison.details | {_DETAILS: _costs(rows)}
    return replace(comparison, metrics=metrics, predictions=predictions, details=details)


def read_answers(prepared: Path) -> dict[str, dict[str, Any]]:
    """The answers of the teacher in the prepared data, by the file and line of their row; empty without one."""
    path = prepared / layout.TEACHER_ANSWERS
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["source"]: row for row in rows}


def answers_notes(details: Mapping[str, Any]) -> tuple[str, ...]:
    """What to know about the scores of the teacher, from the ``details`` of a comparison."""
    found = details.get(_DETAILS, {})
    if not found.get("unusable"):
        return ()
    return (
        f"the teacher has no usable answer to {found['unusable']:,} of {found['prompts']:,} test prompts, which count "
        "as empty answers",
    )


def _score(metric: MetricResult, scoring: AnswerScoring, answers: Sequence[Samples]) -> float | None:
    """The metric of the answers; None for one that needs the probabilities of the model."""
    name = metric.name
    if not isinstance(name, Metric) or name in TEACHER_FORCED:
        return None
    if name in scoring.corpora:
        return scoring.corpora[name].score(scoring.statistics(name, answers).sum(axis=0))
    return ratio(scoring.values(name, answers), scoring.weights(name))


def _costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What evaluation.json says about the answers."""
    timed = [row for row in rows if "seconds" in row]
    seconds, tokens = (sum(row[name] for row in timed) for name in ("seconds", "tokens"))
    return {
        "prompts": len(rows),
        "unusable": sum(row["answer"] is None for row in rows),
        **({"secondsPerAnswer": seconds / len(timed), "tokensPerSecond": tokens / seconds} if seconds else {}),
    }
