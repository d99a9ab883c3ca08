"""Corpus metrics equal those of sacreBLEU, and their intervals come from its statistics."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu import sentence_chrf
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from finetune_api.spec import Metric
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric, tokenizer_for
from finetune_trainer.evaluate.intervals import corpus_interval

ANSWERS = ["the cat sat", "a dog", "", "quite another text", "exactly this"]
REFERENCES = ["the cat sits", "the dog barks", "silence", "yet another text here", "exactly this"]


def the_metric(metric: Metric, language: str | None = None) -> CorpusMetric:
    found = corpus_metric(metric, language)
    assert found is not None
    return found


def test_chrf_is_that_of_the_corpus_and_not_the_mean_of_the_sentences() -> None:
    metric = the_metric(Metric.CHRF)
    score = metric.score(metric.statistics(ANSWERS, REFERENCES).sum(axis=0))
    assert score == pytest.approx(CHRF().corpus_score(ANSWERS, [REFERENCES]).score)
    mean = np.mean(
        [CHRF().sentence_score(*pair).score for pair in zip(ANSWERS, [[r] for r in REFERENCES], strict=True)]
    )
    assert abs(score - mean) > 1


def test_the_signature_names_version_and_settings() -> None:
    metric = the_metric(Metric.CHRF)
    metric.statistics(ANSWERS, REFERENCES)
    assert metric.signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_the_interval_contains_the_change_and_is_that_of_resampled_statistics() -> None:
    metric = the_metric(Metric.CHRF)
    before, after = metric.statistics(ANSWERS * 8, REFERENCES * 8), metric.statistics(REFERENCES * 8, REFERENCES * 8)
    low, high = corpus_interval(metric, before, after, seed=1, resamples=200)
    assert low < 100 - metric.score(before.sum(axis=0)) < high
    assert corpus_interval(metric, after, after, seed=1, resamples=50) == (0.0, 0.0)
    drawn = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=200)
    expected = [100 - metric.score(weights @ before) for weights in drawn]
    assert (low, high) == pytest.approx(tuple(np.percentile(expected, (2.5, 97.5))))


def test_bleu_is_that_of_the_corpus() -> None:
    metric = the_metric(Metric.BLEU, "de")
    score = metric.score(metric.statistics(ANSWERS, REFERENCES).sum(axis=0))
    assert score == pytest.approx(BLEU().corpus_score(ANSWERS, [REFERENCES]).score)
    assert "tok:13a" in metric.signature


@pytest.mark.parametrize(("answer", "reference"), [pair for pair in zip(ANSWERS, REFERENCES, strict=True) if all(pair)])
def test_of_one_answer_it_is_sacrebleus(answer: str, reference: str) -> None:
    expected = sentence_chrf(answer, [reference], eps_smoothing=False).score
    assert the_metric(Metric.CHRF).of_one(answer, reference) == pytest.approx(expected)
    assert the_metric(Metric.BLEU).of_one(reference, reference) == pytest.approx(100)


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        *((name, "zh") for name in ("zh", "zho_Hans", "zh_CN", "zh-Hant", "Chinese")),
        *((name, "char") for name in ("ja", "jpn_Jpan", "ja_XX", "ko", "th")),
        *((name, "13a") for name in ("de", "deu_Latn", "en_XX", "English", "Klingonish", None)),
    ],
)
def test_languages_without_spaces_have_a_tokenizer_of_their_own(language: str | None, tokenizer: str) -> None:
    assert tokenizer_for(language) == tokenizer


def test_one_other_character_does_not_make_a_sentence_wrong() -> None:
    metric = the_metric(Metric.BLEU, "zh")
    assert metric.of_one("今天天气很好我们去公园", "今天天气很好我们去学校") > 50


def test_other_metrics_are_no_corpus_metrics() -> None:
    assert corpus_metric(Metric.ROUGE_L, "de") is None
