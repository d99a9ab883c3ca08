"""The answers of a teacher to the prompts of the test split beside those of its student.

Prepare has asked for them. An answer that cannot be used counts as an empty one, as from a student that says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetune_api import layout
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.evaluate.answer_scoring import AnswerScoring, Samples, score
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs
from finetune_trainer.evaluate.metrics import TEACHER_FORCED
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.teachable import ScoresAnswers

_DETAILS = "teacher"


def beside_answers(comparison: Comparison, inputs: EvaluationInputs, task: ScoresAnswers) -> Comparison:
    """``comparison`` with the scores of the answers of the teacher, and these in its predictions.

    Args:
        comparison: That of the student.
        inputs: Inputs of the evaluation.
        task: The form of the task.

    Raises:
        StageFailure: As `ScoresAnswers.answer_scores`.
    """
    stored = read_answers(inputs.prepared)
    rows = [stored[source] for source in open_split(inputs.prepared, SPLIT)["source"].to_pylist()]
    scores = task.answer_scores(inputs, [row["answer"] or "" for row in rows])
    metrics = tuple(metric.model_copy(update={"teacher": scores.get(metric.name)}) for metric in comparison.metrics)
    predictions = [
        prediction | {"teacher": row["answer"]} for prediction, row in zip(comparison.predictions, rows, strict=True)
    ]
    details = comparison.details | {_DETAILS: _costs(rows)}
    return replace(comparison, metrics=metrics, predictions=predictions, details=details)


def generated_scores(
    inputs: EvaluationInputs, scoring_of: Callable[[pa.Table, FineTuneJobSpec], AnswerScoring], answers: Sequence[str]
) -> dict[str, float]:
    """The metrics of answers as a model of the task generates them; see `ScoresAnswers.answer_scores`.

    Args:
        inputs: Inputs of the evaluation.
        scoring_of: How answers of the task are measured.
        answers: The answers to the test prompts, in order.
    """
    scoring = scoring_of(open_split(inputs.prepared, SPLIT), inputs.spec)
    read: list[Samples] = [[scoring.read(index, answer)] for index, answer in enumerate(answers)]
    scores = {metric: score(scoring, metric, read) for metric in scoring.metrics() if metric not in TEACHER_FORCED}
    return {str(metric): value for metric, value in scores.items() if value is not None}


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


def _costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What evaluation.json says about the answers."""
    timed = [row for row in rows if "seconds" in row]
    seconds, tokens = (sum(row[name] for row in timed) for name in ("seconds", "tokens"))
    return {
        "prompts": len(rows),
        "unusable": sum(row["answer"] is None for row in rows),
        **({"secondsPerAnswer": seconds / len(timed), "tokensPerSecond": tokens / seconds} if seconds else {}),
    }
