"""Comparison of two tuned models example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from finetune_api.evaluation import Baseline, BaselineKind, Evaluation, MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate.corpus_metrics import corpus_metric
from finetune_trainer.evaluate.metrics import exact_match
from finetune_trainer.evaluate.pairing import digest_of, paired_results

REFERENCES = [f"this is the {name} row of the table" for name in ("first", "second", "third", "fourth")] * 10


def labelled(*tuned: str) -> list[dict[str, Any]]:
    """Predictions of a classifier; the right label is the first letter of the text."""
    return [
        {"source": f"a:{n}", "text": f"{'ab'[n % 2]} {n}", "label": "ab"[n % 2], "baseline": "a", "tuned": label}
        for n, label in enumerate(tuned)
    ]


def answered(*tuned: str) -> list[dict[str, Any]]:
    return [
        {
            "source": f"a:{n}",
            "prompt": f"say {n}",
            "reference": REFERENCES[n],
            "baseline": "",
            "tuned": answer,
            "scores": {"exact_match": {"baseline": 0.0, "tuned": exact_match(answer, REFERENCES[n])}},
        }
        for n, answer in enumerate(tuned)
    ]


def evaluation(**metrics: float) -> Evaluation:
    return Evaluation(
        split="test",
        examples=40,
        baseline=Baseline(kind=BaselineKind.MAJORITY_CLASS),
        metrics=tuple(
            MetricResult(
                name=Metric(name), baseline=0.5, tuned=value, change=value - 0.5, interval=(0, 1), higher_is_better=True
            )
            for name, value in metrics.items()
        ),
    )


def test_digest_depends_on_the_examples_alone() -> None:
    rows = labelled(*"ab" * 20)
    moved = [row | {"source": "elsewhere:1", "tuned": "b"} for row in reversed(rows)]
    assert digest_of(moved) == digest_of(rows)
    assert digest_of(rows[1:]) != digest_of(rows)
    assert digest_of([rows[0] | {"label": "b"}, *rows[1:]]) != digest_of(rows)


def test_interval_of_a_classifier_is_paired_whatever_the_order() -> None:
    right, wrong = labelled(*"ab" * 20), labelled(*"ab" * 10, *"ba" * 10)
    (result,) = paired_results(wrong, right[::-1], evaluation(accuracy=0.5), evaluation(accuracy=1.0))
    assert result.change == 0.5
    assert 0.3 < result.interval[0] < 0.5 < result.interval[1] < 0.7
    (same,) = paired_results(right, right, evaluation(accuracy=1.0), evaluation(accuracy=1.0))
    assert same.interval == (0, 0)


def test_metric_that_the_rows_do_not_reproduce_has_no_interval() -> None:
    rows = labelled(*"ab" * 20)
    assert paired_results(rows, rows, evaluation(accuracy=0.9), evaluation(accuracy=1.0)) == []


def score(metric: Metric, answers: Sequence[str], references: Sequence[str], language: str | None = None) -> float:
    corpus = corpus_metric(metric, language)
    if corpus is None:
        return float(np.mean([exact_match(*pair) for pair in zip(answers, references, strict=True)]))
    return corpus.score(corpus.statistics(answers, references).sum(axis=0))


@pytest.mark.parametrize("metric", [Metric.EXACT_MATCH, Metric.CHRF, Metric.BLEU])
def test_interval_of_answers_is_paired(metric: Metric) -> None:
    texts = [REFERENCES[0]] * 40, REFERENCES
    before, after = (evaluation(**{str(metric): score(metric, answers, REFERENCES)}) for answers in texts)
    (result,) = paired_results(answered(*texts[0]), answered(*texts[1]), before, after)
    assert result.interval[0] > 0
    assert result.interval[0] <= result.change <= result.interval[1]


def test_score_in_a_language_with_other_words_has_no_interval() -> None:
    """The rows do not say the language, and the interval would be that of another score."""
    rows = answered(*[REFERENCES[0]] * 40)
    value = score(Metric.BLEU, [REFERENCES[0]] * 40, REFERENCES, "ja")
    assert paired_results(rows, rows, evaluation(bleu=value), evaluation(bleu=value)) == []


def test_loss_has_no_interval_because_the_rows_lack_the_number_of_tokens() -> None:
    rows = answered(*REFERENCES)
    for number, row in enumerate(rows):
        row["scores"]["loss"] = {"baseline": 1.0, "tuned": number / 10}
    assert paired_results(rows, rows, evaluation(loss=0.3), evaluation(loss=0.3)) == []


def read(*nll: float, tokens: int = 4) -> list[dict[str, Any]]:
    """Predictions of a model of language: the negative log-likelihoods of texts of 4 bytes."""
    return [
        {
            "source": f"a:{n}",
            "text": f"{n:04d}",
            "tokens": tokens,
            "bytes": 4,
            "nll": {"baseline": 9.0, "tuned": value},
            "scores": {"perplexity": {"baseline": 1.0, "tuned": 1.0}},
        }
        for n, value in enumerate(nll)
    ]


def test_perplexities_are_compared_by_the_likelihood_of_the_rows() -> None:
    worse, better = [4.0, 8.0] * 20, [3.0, 5.0] * 20
    before, after = (evaluation(perplexity=float(np.exp(np.mean(nll) / 4))) for nll in (worse, better))
    (result,) = paired_results(read(*worse), read(*better), before, after)
    assert result.change == pytest.approx(np.exp(1) - np.exp(1.5))
    assert result.interval[0] < result.change < result.interval[1] < 0
    assert paired_results(read(*worse), read(*better), before, evaluation(perplexity=2.0)) == []


def test_only_bits_per_byte_are_compared_across_tokenizers() -> None:
    first, second = read(*[4.0] * 40), read(*[3.0] * 40, tokens=6)
    assert digest_of(first) == digest_of(second)
    before = evaluation(perplexity=float(np.exp(1)), bits_per_byte=float(1 / np.log(2)))
    after = evaluation(perplexity=float(np.exp(0.5)), bits_per_byte=float(0.75 / np.log(2)))
    (result,) = paired_results(first, second, before, after)
    assert result.name is Metric.BITS_PER_BYTE


def asked(*answers: str) -> list[dict[str, Any]]:
    """Predictions of a model that answers with spans."""
    return [
        {
            "source": f"a:{n}",
            "question": f"which {n}",
            "context": "the right one",
            "answers": ["right"],
            "answerSpans": [(4, 9)],
            "baseline": "",
            "baselineSpan": None,
            "tuned": answer,
            "tunedSpan": None if not answer else (4, 9),
            "scores": {"squad_f1": {"baseline": 0.0, "tuned": float(answer == "right")}},
        }
        for n, answer in enumerate(answers)
    ]


def test_answers_with_spans_are_compared() -> None:
    worse, better = asked(*["", "right"] * 20), asked(*["right"] * 40)
    assert digest_of(worse) == digest_of(better)
    (result,) = paired_results(worse, better, evaluation(squad_f1=0.5), evaluation(squad_f1=1))
    assert result.interval[0] > 0


def test_a_metric_about_some_examples_is_paired_over_those() -> None:
    """As that of the questions without an answer; values as in status, with six significant digits."""

    def rows(tuned: float) -> list[dict[str, Any]]:
        score = {"baseline": 0.0, "tuned": tuned}
        return [{"question": str(n), "scores": {"no_answer_f1": score} if n % 3 else {}} for n in range(40)]

    value = 1 / 3
    before, after = evaluation(no_answer_f1=0.333333), evaluation(no_answer_f1=1.0)
    (result,) = paired_results(rows(value), rows(1.0), before, after)
    assert result.change == pytest.approx(2 / 3, abs=1e-5)
    assert result.interval == pytest.approx((2 / 3, 2 / 3))
