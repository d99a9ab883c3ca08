"""Corpus metrics equal those of sacreBLEU, and their intervals come from its statistics."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from finetune_api.spec import Metric
from finetune_trainer.evaluate.corpus_metrics import CORPUS_METRICS
from finetune_trainer.evaluate.intervals import corpus_interval

ANSWERS = ["the cat sat", "a dog", "", "quite another text", "exactly this"]
REFERENCES = ["the cat sits", "the dog barks", "silence", "yet another text here", "exactly this"]


def test_chrf_is_that_of_the_corpus_and_not_the_mean_of_the_sentences() -> None:
    metric = CORPUS_METRICS[Metric.CHRF]
    score = metric.score(metric.statistics(ANSWERS, REFERENCES).sum(axis=0))
    assert score == pytest.approx(CHRF().corpus_score(ANSWERS, [REFERENCES]).score)
    mean = np.mean(
        [CHRF().sentence_score(*pair).score for pair in zip(ANSWERS, [[r] for r in REFERENCES], strict=True)]
    )
    assert abs(score - mean) > 1


def test_the_signature_names_version_and_settings() -> None:
    metric = CORPUS_METRICS[Metric.CHRF]
    metric.statistics(ANSWERS, REFERENCES)
    assert metric.signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_the_interval_contains_the_change_and_is_that_of_resampled_statistics() -> None:
    metric = CORPUS_METRICS[Metric.CHRF]
    before, after = metric.statistics(ANSWERS * 8, REFERENCES * 8), metric.statistics(REFERENCES * 8, REFERENCES * 8)
    low, high = corpus_interval(metric, before, after, seed=1, resamples=200)
    assert low < 100 - metric.score(before.sum(axis=0)) < high
    assert corpus_interval(metric, after, after, seed=1, resamples=50) == (0.0, 0.0)
    drawn = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=200)
    expected = [100 - metric.score(weights @ before) for weights in drawn]
    assert (low, high) == pytest.approx(tuple(np.percentile(expected, (2.5, 97.5))))
