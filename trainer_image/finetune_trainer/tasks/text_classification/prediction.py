"""TextClassification: labels and their probabilities for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune_trainer.evaluate.classification import THRESHOLD
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.problems import row_explained
from finetune_trainer.prepare.rows import checked, text_of
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.text_classification.evaluation import tuned_output
from finetune_trainer.tasks.text_classification.rows import Labelled
from finetune_trainer.tasks.text_classification.tokens import TextTokeniser

_SHOWN_LABELS = 3

Probabilities = NDArray[np.floating[Any]]


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    texts = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            texts.append(_text(inputs, row))
    tokenizer = load_base_tokenizer(inputs.trained, "the artifact")
    tokeniser = TextTokeniser(tokenizer, inputs.data.max_sequence_length, multi_label=False)
    encoded = tokeniser.encode([Labelled(text, "") for text in texts])
    tokens = TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]]))
    output = tuned_output(inputs, tokens)
    predict_one = _multi_label_prediction if inputs.data.multi_label else _prediction
    return [
        predict_one(text, scores, inputs.data.labels) for text, scores in zip(texts, output.probabilities, strict=True)
    ]


def _text(inputs: EvaluationInputs, row: object) -> str:
    if not isinstance(row, Mapping):
        return checked(row, "the text")
    spec = inputs.spec
    field = spec.task.type.row.columns[0][0].field
    return text_of(row, spec.dataset.columns.name(field), field)


def _prediction(text: str, scores: Probabilities, labels: Sequence[str]) -> Prediction:
    by_label = _by_label(scores, labels)
    document = {"text": text, "label": next(iter(by_label)), "scores": by_label}
    return Prediction(_shown(list(by_label.items())[:_SHOWN_LABELS]), document)


def _multi_label_prediction(text: str, scores: Probabilities, labels: Sequence[str]) -> Prediction:
    by_label = _by_label(scores, labels)
    # The scores are rounded, and a rounded one could be another decision.
    predicted = [labels[index] for index in np.flatnonzero(scores >= THRESHOLD).tolist()]
    best = [(label, score) for label, score in by_label.items() if label in predicted]
    return Prediction(_shown(best) or "no label", {"text": text, "labels": predicted, "scores": by_label})


def _by_label(scores: Probabilities, labels: Sequence[str]) -> dict[str, float]:
    """The scores, highest first."""
    # As argmax in evaluation, the first of equal scores comes first.
    return {labels[index]: round(float(scores[index]), 6) for index in np.argsort(-scores, kind="stable").tolist()}


def _shown(scores: Sequence[tuple[str, float]]) -> str:
    return "  ".join(f"{label} {score:.4f}" for label, score in scores)
