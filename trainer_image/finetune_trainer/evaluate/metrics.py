"""Evaluation metrics, as pure functions of predictions.

Each metric is a function of sums over examples, so that a bootstrap can recompute it from resampled sums.
Classification metrics equal those of scikit-learn with its defaults. Accuracy, F1, exact match, token accuracy and
ROUGE-L range from 0 to 1, chrF from 0 to 100 as in sacreBLEU; loss is in nats per token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec import Metric

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLASSIFICATION = (Metric.ACCURACY, Metric.MACRO_F1, Metric.WEIGHTED_F1)
TEACHER_FORCED = (Metric.LOSS, Metric.TOKEN_ACCURACY)

# Words as in rouge-score, but in any script. In scripts without spaces each character is a word.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])[^\W_])+"
)


@dataclass(frozen=True)
class LabelCounts:
    """Counts per label for one or more weightings of the examples: arrays of shape (weightings, labels)."""

    gold: Floats
    predicted: Floats
    hits: Floats

    @property
    def recall(self) -> Floats:
        """Recall per label; 0 for a label without examples."""
        return self.hits / np.maximum(self.gold, 1)

    @property
    def f1(self) -> Floats:
        """F1 per label; 0 for a label that neither occurs nor is predicted."""
        return 2 * self.hits / np.maximum(self.gold + self.predicted, 1)


def label_counts(gold: Ints, predicted: Ints, weights: Floats, labels: int) -> LabelCounts:
    """Count examples, predictions and correct predictions per label.

    Args:
        gold: True labels, of shape (examples,).
        predicted: Predicted labels, of shape (examples,).
        weights: Weight of each example, of shape (weightings, examples).
        labels: Number of labels.
    """
    hit = gold == predicted
    return LabelCounts(
        gold=_sums_by_label(gold, weights, labels),
        predicted=_sums_by_label(predicted, weights, labels),
        hits=_sums_by_label(gold[hit], weights[:, hit], labels),
    )


def classification_scores(metric: Metric, gold: Ints, predicted: Ints, weights: Floats, labels: int) -> Floats:
    """Compute ``metric`` for each weighting of the examples; arguments as for `label_counts`.

    As in ``sklearn.metrics.f1_score``, macro_f1 is the mean over the labels in ``gold`` or ``predicted``, and
    weighted_f1 weights labels by their number of examples.

    Returns:
        Scores from 0 to 1, of shape (weightings,).
    """
    if metric is Metric.ACCURACY:
        scores: Floats = weights @ (gold == predicted) / weights.sum(axis=1)
        return scores
    counts = label_counts(gold, predicted, weights, labels)
    if metric is Metric.WEIGHTED_F1:
        weighted: Floats = (counts.f1 * counts.gold).sum(axis=1) / counts.gold.sum(axis=1)
        return weighted
    occurring = (counts.gold + counts.predicted > 0).sum(axis=1)
    macro: Floats = counts.f1.sum(axis=1) / occurring
    return macro


def classification_score(metric: Metric, gold: Ints, predicted: Ints, labels: int) -> float:
    """Compute ``metric`` over all examples; arguments as for `label_counts`."""
    return float(classification_scores(metric, gold, predicted, np.ones((1, len(gold))), labels)[0])


def _sums_by_label(labels_of: Ints, weights: Floats, labels: int) -> Floats:
    sums = np.zeros((len(weights), labels))
    if len(labels_of):
        order = np.argsort(labels_of, kind="stable")
        present, starts = np.unique(labels_of[order], return_index=True)
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def exact_match(answer: str, reference: str) -> float:
    """1 if both texts are equal up to leading and trailing white space, else 0."""
    return float(answer.strip() == reference.strip())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004), from the longest common subsequence of words; 0 to 1.

    For English it equals the ``rouge-score`` package without stemming, which supports only the letters a-z and takes
    quadratic time. This implementation supports any script and is bit-parallel (Hyyrö 2004). If neither text has a
    word, as in ``{}``, the result is the exact match.
    """
    answered, expected = _words(answer), _words(reference)
    if not answered and not expected:
        return exact_match(answer, reference)
    if not answered or not expected:
        return 0.0
    common = _longest_common_subsequence(answered, expected)
    precision, recall = common / len(answered), common / len(expected)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one answer (Popović 2015) by sacreBLEU, 0 to 100. `corpus_metrics` has the metric of a split."""
    return float(_chrf().sentence_score(answer.strip(), [reference.strip()]).score)


AnswerMetric = Callable[[str, str], float]
"""The value of a metric for one answer and its reference."""

ANSWER_METRICS: dict[Metric, AnswerMetric] = {
    Metric.EXACT_MATCH: exact_match,
    Metric.ROUGE_L: rouge_l,
    Metric.CHRF: chrf,
}
"""Metrics of generated answers. The value of a split is the mean over its answers, or that of `corpus_metrics`."""


def ratio(values: Floats, weights: Floats) -> float:
    """The weighted mean of ``values``, such as a loss weighted by tokens; both of shape (examples,)."""
    return float((values * weights).sum() / weights.sum())


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    positions: dict[str, int] = {}  # A bit mask of indices in ``left``, for each word.
    for index, word in enumerate(left):
        positions[word] = positions.get(word, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        matched = row & positions.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(left) - row.bit_count()
