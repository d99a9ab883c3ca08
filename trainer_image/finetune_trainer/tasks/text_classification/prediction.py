"""TextClassification: labels and their probabilities for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.problems import row_explained
from finetune_trainer.prepare.rows import checked, text_of
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.text_classification.evaluation import tuned_logits
from finetune_trainer.tasks.text_classification.rows import Labelled
from finetune_trainer.tasks.text_classification.tokens import TextTokeniser

_SHOWN_LABELS = 3


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    texts = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            texts.append(_text(inputs, row))
    tokenizer = load_base_tokenizer(inputs.trained, "the artifact")
    encoded = TextTokeniser(tokenizer, inputs.data.max_sequence_length).encode([Labelled(text, "") for text in texts])
    tokens = TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]]))
    scores = np.zeros((len(texts), len(inputs.data.labels)), dtype=np.float32)

    def keep(batch: Ints, logits: torch.Tensor) -> None:
        scores[batch] = logits.softmax(dim=-1).cpu().numpy()

    tuned_logits(inputs, tokens, inputs.data.padding, keep)
    return [_prediction(text, score, inputs.data.labels) for text, score in zip(texts, scores, strict=True)]


def _text(inputs: EvaluationInputs, row: object) -> str:
    if not isinstance(row, Mapping):
        return checked(row, "the text")
    spec = inputs.spec
    field = spec.task.type.row.columns[0][0].field
    return text_of(row, spec.dataset.columns.name(field), field)


def _prediction(text: str, scores: NDArray[np.float32], labels: Sequence[str]) -> Prediction:
    # As argmax in evaluation, the first of equal scores comes first.
    order = np.argsort(-scores, kind="stable")
    by_label = {labels[index]: round(float(scores[index]), 6) for index in order}
    shown = [f"{label} {score:.4f}" for label, score in list(by_label.items())[:_SHOWN_LABELS]]
    return Prediction("  ".join(shown), {"text": text, "label": labels[order[0]], "scores": by_label})
