"""Metrics of answers by the rules of the evaluation script of SQuAD 2.0, for files of both versions.

Those of version 1.1 differ where an answer is empty without articles and punctuation. Common to all forms.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.spec import Metric
from finetune_trainer.evaluate.metrics import Floats

QUESTION_METRICS = (Metric.SQUAD_F1, Metric.EXACT_MATCH, Metric.HAS_ANSWER_F1, Metric.NO_ANSWER_F1)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """``text`` in lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals one of the references once both are normalised, else 0.

    Args:
        prediction: The answer; empty for no answer.
        references: The right answers; empty if there is none.
    """
    own = normalised(prediction)
    return float(any(own == reference for reference in _normalised(references)))


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words in common with the closest of the references; arguments as for `exact_match`."""
    own = normalised(prediction).split()
    return max(_f1(own, reference.split()) for reference in _normalised(references))


def _normalised(references: Sequence[str]) -> list[str]:
    """The references, without those that nothing is left of; an empty one if there are no others."""
    return [kept for reference in references if (kept := normalised(reference))] or [""]


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall) if common else 0.0


@dataclass(frozen=True)
class Scores:
    """The scores of the answers of one model, each of shape (questions,)."""

    exact: Floats
    f1: Floats

    @classmethod
    def of(cls, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        pairs = list(zip(predictions, references, strict=True))
        return cls(
            exact=np.array([exact_match(*pair) for pair in pairs]), f1=np.array([squad_f1(*pair) for pair in pairs])
        )

    def values(self, metric: Metric) -> Floats:
        """The value of each question, of which the metric is the mean over those of `weights`."""
        return self.exact if metric is Metric.EXACT_MATCH else self.f1


def weights(metric: Metric, references: Sequence[Sequence[str]]) -> Floats:
    """Which questions a metric is about, 1 or 0, of shape (questions,)."""
    answered = np.array([bool(listed) for listed in references])
    if metric is Metric.HAS_ANSWER_F1:
        return answered.astype(np.float64)
    return (~answered).astype(np.float64) if metric is Metric.NO_ANSWER_F1 else np.ones(len(references))
