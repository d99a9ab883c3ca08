"""Compares two tuned models that were evaluated on the same test split, example by example."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from finetune_api.evaluation import MetricResult
from finetune_api.spec import HarnessMetric, Metric
from finetune_trainer.evaluate.classification import Classified, compared, one_hot
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric
from finetune_trainer.evaluate.intervals import corpus_interval, ratio_interval
from finetune_trainer.evaluate.likelihood import LIKELIHOOD, Likelihood, likelihood_interval
from finetune_trainer.evaluate.metrics import CLASSIFICATION, MULTI_LABEL, Labels, ratio

Row = Mapping[str, Any]
"""A row of ``predictions.jsonl``."""

_SCORES = ("scores", "confidence", "nll", "tokens", "rewards", "logProbabilities")
_OUTPUTS = ("source", "baseline", "baselineSpan", "tuned", "tunedSpan", "teacher", "samples", "outcomes", *_SCORES)
"""Keys of a row that do not belong to the example itself: the same example may come from another
file, and have other tokens for another base model."""
_SEED = 0
_OF_LABELS = {*CLASSIFICATION, *MULTI_LABEL, Metric.AUROC, Metric.ECE}
_TOLERANCE = 1e-5
"""Relative, because status has six significant digits."""


class Measured(Protocol):
    """An evaluation, or another comparison."""

    @property
    def metrics(self) -> tuple[MetricResult, ...]: ...


def digest_of(rows: Sequence[Row]) -> str:
    """Digest of the test examples, in any order; it does not depend on the models or on the files."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(map(_content, rows))).encode(errors="replace")).hexdigest()


def paired_results(
    first: Sequence[Row], second: Sequence[Row], before: Measured, after: Measured
) -> list[MetricResult]:
    """The change from the first tuned model to the second, for each metric that the predictions determine.

    Args:
        first: Predictions of the first model.
        second: Those of the second, on the same examples in any order.
        before: The evaluation of the first model.
        after: The evaluation of the second.
    """
    pairs = list(zip(sorted(first, key=_content), sorted(second, key=_content), strict=True))
    others = {metric.name: metric for metric in after.metrics}
    results = []
    for metric in before.metrics:
        other = others.get(metric.name)
        if other is None or isinstance(metric.name, HarnessMetric):
            continue
        if interval := _interval(metric.name, pairs, (metric.tuned, other.tuned)):
            results.append(
                MetricResult(
                    name=metric.name,
                    baseline=metric.tuned,
                    tuned=other.tuned,
                    change=other.tuned - metric.tuned,
                    interval=interval,
                    higher_is_better=metric.higher_is_better,
                )
            )
    return results


def _interval(
    metric: Metric, pairs: Sequence[tuple[Row, Row]], values: tuple[float, float]
) -> tuple[float, float] | None:
    """The interval of the change; None if the rows do not determine the metric."""
    if metric in _OF_LABELS:
        return _classification(metric, pairs, values)
    if metric in LIKELIHOOD:
        return _of_likelihood(metric, pairs, values)
    # The rows do not say their language. In one that needs other settings, the value is another one.
    corpus = corpus_metric(metric, language=None)
    return _of_corpus(corpus, pairs, values) if corpus else _of_scores(metric, pairs, values)


def _of_corpus(
    corpus: CorpusMetric, pairs: Sequence[tuple[Row, Row]], values: tuple[float, float]
) -> tuple[float, float] | None:
    references = [str(row["reference"]) for row, _ in pairs]
    if any(row["tuned"] is None for pair in pairs for row in pair):
        return None
    before, after = (corpus.statistics([str(pair[side]["tuned"]) for pair in pairs], references) for side in (0, 1))
    if _differ([corpus.score(before.sum(axis=0)), corpus.score(after.sum(axis=0))], values):
        return None
    return corpus_interval(corpus, before, after, seed=_SEED)


def _of_likelihood(
    metric: Metric, pairs: Sequence[tuple[Row, Row]], values: tuple[float, float]
) -> tuple[float, float] | None:
    before, after = (
        Likelihood(
            nll=np.array([pair[side]["nll"]["tuned"] for pair in pairs]),
            tokens=np.array([pair[side]["tokens"] for pair in pairs], np.float64),
            bytes=np.array([pair[side]["bytes"] for pair in pairs], np.float64),
        )
        for side in (0, 1)
    )
    # Perplexities over other tokens say nothing about each other.
    if (before.weights(metric) != after.weights(metric)).any():
        return None
    if _differ([before.score(metric), after.score(metric)], values):
        return None
    return likelihood_interval(metric, before, after, _SEED)


def _of_scores(
    metric: Metric, pairs: Sequence[tuple[Row, Row]], values: tuple[float, float]
) -> tuple[float, float] | None:
    # A metric may be about some of the examples only, such as the questions without an answer.
    measured = [pair for pair in pairs if metric in pair[0]["scores"]]
    if not measured or any((metric in pair[0]["scores"]) != (metric in pair[1]["scores"]) for pair in pairs):
        return None
    scores = [np.array([pair[side]["scores"][metric]["tuned"] for pair in measured]) for side in (0, 1)]
    # Without this number, the rows do not have the weight of an example for the loss, which is that of its tokens.
    weights, others = (np.array([pair[side].get("tokens", 1) for pair in measured], np.float64) for side in (0, 1))
    if (weights != others).any() or _differ([ratio(of_model, weights) for of_model in scores], values):
        return None
    return ratio_interval(scores[0], scores[1], weights, seed=_SEED)


def _classification(
    metric: Metric, pairs: Sequence[tuple[Row, Row]], values: tuple[float, float]
) -> tuple[float, float] | None:
    multiple = isinstance(pairs[0][0]["label"], list)
    if metric is Metric.AUROC or (metric is Metric.ECE and "confidence" not in pairs[0][0]):
        return None  # The rows do not have the probabilities of all labels.
    rows = [row for pair in pairs for row in pair]
    names = sorted({name for row in rows for key in ("label", "tuned") for name in _listed(row[key])})
    index_of = {name: index for index, name in enumerate(names)}

    def labels(side: int, key: str) -> Labels:
        if not multiple:
            return np.array([index_of[pair[side][key]] for pair in pairs], dtype=np.int64)
        has = np.zeros((len(pairs), len(names)), np.bool_)
        for row, pair in enumerate(pairs):
            has[row, [index_of[name] for name in pair[side][key]]] = True
        return has

    def output(side: int) -> Classified:
        predicted = labels(side, "tuned")
        probabilities = one_hot(predicted, len(names)).astype(np.float64)
        if metric is Metric.ECE:
            confidences = [pair[side]["confidence"]["tuned"] for pair in pairs]
            probabilities[np.arange(len(pairs)), predicted] = confidences
        return Classified(probabilities, predicted)

    result = compared(metric, labels(0, "label"), output(0), output(1), labels=len(names), seed=_SEED)
    # A label that is in no row may count in the metric.
    if result is None or result.baseline is None or _differ([result.baseline, result.tuned], values):
        return None
    return result.interval


def _listed(labels: str | Sequence[str]) -> Sequence[str]:
    return [labels] if isinstance(labels, str) else labels


def _differ(found: Sequence[float], stored: Sequence[float]) -> bool:
    return not all(
        math.isclose(mine, theirs, rel_tol=_TOLERANCE, abs_tol=1e-6) for mine, theirs in zip(found, stored, strict=True)
    )


def _content(row: Row) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in _OUTPUTS}, sort_keys=True)
