"""Metrics of all answers together, computed by sacreBLEU from sums of statistics of the answers.

Such a metric is not the mean over the answers. Its interval comes from resampling the statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from finetune_api.spec import Metric
from finetune_trainer.evaluate.metrics import Floats, Ints
from finetune_trainer.pairs.languages import language_named

_WITHOUT_SPACES = ("ja", "ko", "th", "lo", "km", "my", "bo", "dz")
"""Languages whose words sacreBLEU cannot tell apart without another package."""


class CorpusMetric:
    """One metric of sacreBLEU."""

    def __init__(self, metric: CHRF | BLEU, of_one: CHRF | BLEU) -> None:
        """``of_one`` computes the metric of a single answer."""
        # The package has no public functions for the statistics; its own bootstrap uses these.
        self._metric: Any = cast(Any, metric)
        self._of_one = of_one

    def of_one(self, answer: str, reference: str) -> float:
        """The metric of one answer."""
        return float(self._of_one.sentence_score(answer.strip(), [reference.strip()]).score)

    def statistics(self, answers: Sequence[str], references: Sequence[str]) -> Ints:
        """The statistics of each answer, of shape (examples, statistics)."""
        stripped = [text.strip() for text in answers], [[text.strip() for text in references]]
        self._metric.num_refs = 1  # For the signature.
        return np.asarray(self._metric._extract_corpus_statistics(*stripped), dtype=np.int64)

    def score(self, sums: Ints) -> float:
        """The metric for the sums of the statistics, of shape (statistics,)."""
        return float(self._metric._compute_score_from_stats(sums.tolist()).score)

    def scores(self, weights: Ints, statistics: Ints) -> Floats:
        """The metric for each weighting of the answers.

        Args:
            weights: How often each answer counts, of shape (weightings, examples).
            statistics: Of shape (examples, statistics).

        Returns:
            Of shape (weightings,).
        """
        return np.array([self.score(sums) for sums in weights @ statistics])

    @property
    def signature(self) -> str:
        """Version and settings, in the form that makes scores comparable."""
        return str(self._metric.get_signature())


def corpus_metric(metric: Metric, language: str | None) -> CorpusMetric | None:
    """The metric of sacreBLEU for answers in ``language``; None if ``metric`` is none of its metrics."""
    if metric is Metric.CHRF:
        return CorpusMetric(CHRF(), CHRF())
    if metric is Metric.BLEU:
        tokenizer = tokenizer_for(language)
        # Short answers have no phrases of four words; the score of one answer leaves those out.
        return CorpusMetric(BLEU(tokenize=tokenizer), BLEU(tokenize=tokenizer, effective_order=True))
    return None


def tokenizer_for(language: str | None) -> str:
    """The tokenizer of sacreBLEU for a language, a BCP-47 tag or the code of a model.

    Languages without spaces between words need their own. Those of Japanese and Korean are optional packages.
    """
    found = language_named(language) if language else None
    name = found.language if found else None
    if name == "zh":
        return "zh"
    for of_language, package, tokenizer in (("ja", "MeCab", "ja-mecab"), ("ko", "mecab_ko", "ko-mecab")):
        if name == of_language and find_spec(package):
            return tokenizer
    return "char" if name in _WITHOUT_SPACES else "13a"
