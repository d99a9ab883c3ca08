"""Answers to rows with a published prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.prepare.problems import BadRow, row_explained
from finetune_trainer.prepare.rows import checked, text_of
from finetune_trainer.search.asked import Spent
from finetune_trainer.search.prompt import read_prompt
from finetune_trainer.tasks.base import Prediction

if TYPE_CHECKING:
    from finetune_trainer.search.form import PromptedForm

_DIGITS = 6
_SHOWN_LABELS = 3


def predict(form: PromptedForm, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    texts = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            texts.append(_inputs(inputs.spec, row))
    prompt, labels = read_prompt(inputs.trained), inputs.data.labels
    with form.asked(inputs, _ignored, Spent()) as asked:
        if labels:
            found, _ = asked.ranked(prompt, texts, labels, _ignored)
            label = _label if inputs.spec.model.endpoint is None else _chosen
            return [label(*one, labels) for one in zip(texts, found, strict=True)]
        answers, _ = asked.answers(prompt, texts, _ignored)
    return [Prediction(answer, {**one, "answer": answer}) for one, answer in zip(texts, answers, strict=True)]


def _inputs(spec: FineTuneJobSpec, row: object) -> dict[str, str]:
    """The texts of a row, which is a text or an object with the columns of the data."""
    placeholders = spec.task.type.row.placeholders
    if isinstance(row, Mapping):
        return {name: text_of(row, spec.dataset.columns.name(name), name) for name in placeholders}
    if len(placeholders) > 1:
        raise BadRow(f"a text is not enough; write an object with {' and '.join(placeholders)}")
    return {placeholders[0]: checked(row, "the text")}


def _ignored(_: int) -> None:
    """A prediction reports no progress."""


def _chosen(texts: Mapping[str, str], scores: Any, labels: Sequence[str]) -> Prediction:
    """The label in an answer of an endpoint, which gives no probabilities."""
    if not scores.any():
        return Prediction("no label", {**texts, "label": None})
    label = labels[int(np.argmax(scores))]
    return Prediction(label, {**texts, "label": label})


def _label(texts: Mapping[str, str], scores: Any, labels: Sequence[str]) -> Prediction:
    ordered = np.argsort(-scores, kind="stable").tolist()
    by_label = {labels[index]: round(float(scores[index]), _DIGITS) for index in ordered}
    shown = "  ".join(f"{label} {score:.4f}" for label, score in list(by_label.items())[:_SHOWN_LABELS])
    return Prediction(shown, {**texts, "label": labels[ordered[0]], "scores": by_label})
