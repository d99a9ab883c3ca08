"""Metrics, as pure functions of predictions.

Every metric is a function of sums over examples, so that a bootstrap can recompute it from resampled sums.
Classification metrics equal scikit-learn's with its defaults. Units: accuracy, F1, exact match, token accuracy and
ROUGE-L lie in 0…1, chrF in 0…100 as sacreBLEU prints it, loss in nats a token.
"""

from __future__ import annotations

import re
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
GENERATED = (Metric.EXACT_MATCH, Metric.ROUGE_L, Metric.CHRF)

# Words as rouge-score has them for English, but of any script; scripts without spaces count by character.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])[^\W_])+"
)


@dataclass(frozen=True)
class LabelCounts:
    """Sums by label, of one or more weightings of the examples: arrays (weightings, labels)."""

    gold: Floats
    predicted: Floats
    hits: Floats

    @property
    def recall(self) -> Floats:
        """Share of a label's examples that were found; 0 for a label without examples."""
        return self.hits / np.maximum(self.gold, 1)

    @property
    def f1(self) -> Floats:
        """F1 by label; 0 for a label that neither occurs nor was predicted."""
        return 2 * self.hits / np.maximum(self.gold + self.predicted, 1)


def label_counts(gold: Ints, predicted: Ints, weights: Floats, labels: int) -> LabelCounts:
    """Count by label.

    Args:
        gold: Label of each example, (examples,).
        predicted: Predicted label of each example, (examples,).
        weights: How often each example counts, (weightings, examples).
        labels: Number of labels.
    """
    hit = gold == predicted
    return LabelCounts(
        gold=_sums_by_label(gold, weights, labels),
        predicted=_sums_by_label(predicted, weights, labels),
        hits=_sums_by_label(gold[hit], weights[:, hit], labels),
    )


def classification_scores(metric: Metric, gold: Ints, predicted: Ints, weights: Floats, labels: int) -> Floats:
    """The value of ``metric`` under each weighting of the examples: (weightings,). Arguments as of `label_counts`.

    macro_f1 averages over the labels that occur in ``gold`` or ``predicted``, weighted_f1 weighs them by their
    number of examples, both as ``sklearn.metrics.f1_score`` does.
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
    """The value of ``metric`` on all examples."""
    return float(classification_scores(metric, gold, predicted, np.ones((1, len(gold))), labels)[0])


def _sums_by_label(labels_of: Ints, weights: Floats, labels: int) -> Floats:
    sums = np.zeros((len(weights), labels))
    if len(labels_of):
        order = np.argsort(labels_of, kind="stable")
        present, starts = np.unique(labels_of[order], return_index=True)
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def exact_match(answer: str, reference: str) -> float:
    """1 when both say the same but for white space at the ends, else 0."""
    return float(answer.strip() == reference.strip())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004): the longest common subsequence of words.

    On English it equals the ``rouge-score`` package without stemming, which knows no other letters than a-z and takes
    time quadratic in the lengths; here words are of any script and the rows are bit-parallel (Hyyrö 2004). Where
    neither side has a word, as in ``{}``, it is the exact match.
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
    """chrF2 of one answer (Popović 2015), by sacreBLEU, 0…100. The metric of a split is the mean over its answers."""
    return float(_chrf().sentence_score(answer.strip(), [reference.strip()]).score)


def answer_score(metric: Metric, answer: str, reference: str) -> float:
    """The value of a metric of `GENERATED` for one answer."""
    if metric is Metric.EXACT_MATCH:
        return exact_match(answer, reference)
    return rouge_l(answer, reference) if metric is Metric.ROUGE_L else chrf(answer, reference)


def ratio(values: Floats, weights: Floats) -> float:
    """The weighted mean of ``values``: a loss by tokens, or with weights of 1 a mean over examples."""
    return float((values * weights).sum() / weights.sum())


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    places: dict[str, int] = {}
    for index, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(left) - row.bit_count()
