"""Metrics of all answers together, computed by sacreBLEU from sums of statistics of the answers.

Such a metric is not the mean over the answers. Its interval comes from resampling the statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from finetune_api.spec import Metric
from finetune_trainer.evaluate.metrics import Floats, Ints


class CorpusMetric:
    """One metric of sacreBLEU."""

    def __init__(self, metric: CHRF) -> None:
        # The package has no public functions for the statistics; its own bootstrap uses these.
        self._metric: Any = cast(Any, metric)

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


CORPUS_METRICS = {Metric.CHRF: CorpusMetric(CHRF())}
