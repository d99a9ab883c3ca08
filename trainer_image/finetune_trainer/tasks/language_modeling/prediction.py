"""LanguageModeling: how likely texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api.spec import Metric
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.likelihood import LIKELIHOOD, Likelihood
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.problems import row_explained
from finetune_trainer.prepare.rows import checked, text_of
from finetune_trainer.report.format import format_value
from finetune_trainer.tasks.base import Prediction
from finetune_trainer.tasks.language_modeling.evaluation import Windows, scored
from finetune_trainer.tasks.language_modeling.rows import FIELD, Document
from finetune_trainer.tasks.language_modeling.tokens import DocumentTokeniser


def predict(inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
    """See `finetune_trainer.tasks.base.TaskForm.predict`."""
    documents = []
    for number, row in enumerate(rows, 1):
        with row_explained(number):
            documents.append(_text(inputs, row))
    tokenizer = load_base_tokenizer(inputs.trained, "the artifact")
    encoded = DocumentTokeniser(tokenizer).encode([Document(text) for text in documents])
    for index, problem in encoded.problems.items():
        with row_explained(index + 1):
            raise problem
    found = Windows(TokenRows.of_column(pa.chunked_array([encoded.columns["input_ids"]])), inputs.data)
    model = inputs.method.tuned(inputs.load, inputs.base, inputs.trained)
    likelihood = Likelihood(
        nll=scored(inputs, found, "tuned", model).nll,
        tokens=found.predicted.astype(np.float64),
        bytes=np.array([len(text.encode()) for text in documents], np.float64),
    )
    scores = {metric: likelihood.scores(metric) for metric in LIKELIHOOD}
    return [
        _prediction(text, {metric: float(values[index]) for metric, values in scores.items()}, likelihood, index)
        for index, text in enumerate(documents)
    ]


def _text(inputs: EvaluationInputs, row: object) -> str:
    if not isinstance(row, Mapping):
        return checked(row, "the text")
    return text_of(row, inputs.spec.dataset.columns.name(FIELD), FIELD)


def _prediction(text: str, scores: Mapping[Metric, float], likelihood: Likelihood, index: int) -> Prediction:
    shown = [f"{metric} {format_value(metric, score)}" for metric, score in scores.items()]
    tokens = int(likelihood.tokens[index])
    document = {
        "text": text,
        "tokens": tokens,
        "bytes": int(likelihood.bytes[index]),
        "nll": float(likelihood.nll[index]),
        **{str(metric): score for metric, score in scores.items()},
    }
    return Prediction("  ".join([*shown, f"{tokens} tokens"]), document)
