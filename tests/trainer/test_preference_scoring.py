"""Metrics of log-probabilities and rewards, and how ties count."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from finetune_api.evaluation import Verdict
from finetune_api.spec import Metric
from finetune_trainer.evaluate.probabilities import auroc
from finetune_trainer.tasks.preference_tuning.scoring import Measured, share

PAIRS = (Metric.PREFERRED, Metric.PREFERRED_PER_TOKEN, Metric.REWARD_ACCURACY, Metric.MARGIN)


def pairs(baseline: list[list[float]], tuned: list[list[float]], beta: float = 0.1) -> Measured:
    counts = np.array([[2, 4]] * len(baseline))
    return Measured(np.array(baseline), np.array(tuned), counts, None, beta)


def test_an_untrained_model_has_no_reward_and_no_accuracy_by_rounding() -> None:
    sums = [[-3.0, -5.0], [-7.0, -6.0], [-1.0, -2.0]]
    noise = [[-3.00004, -5.0], [-7.0, -6.00003], [-1.0, -1.99997]]
    found = {result.name: result for result in pairs(sums, noise).results(PAIRS, seed=1)}
    assert found[Metric.REWARD_ACCURACY].tuned == 0.5
    assert found[Metric.REWARD_ACCURACY].interval == (0, 0)
    assert found[Metric.REWARD_ACCURACY].verdict is Verdict.NO_DIFFERENCE
    assert found[Metric.MARGIN].tuned == pytest.approx(0, abs=1e-5)
    assert found[Metric.PREFERRED].baseline == found[Metric.PREFERRED].tuned == pytest.approx(2 / 3)


def test_sums_and_means_prefer_different_answers() -> None:
    found = pairs([[-3.0, -4.0]], [[-3.0, -4.0]]).results(PAIRS, seed=1)
    assert [result.tuned for result in found[:2]] == [1, 0]


def test_ties_are_left_out_of_a_share() -> None:
    weights = np.array([[1, 1, 1, 1], [0, 2, 0, 2], [0, 0, 4, 0]])
    assert share(np.array([1, -1, 0, 1]), weights) == pytest.approx([2 / 3, 0.5, 0.5])


def test_auroc_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    rewards, desirable = np.round(generator.normal(size=40), 1), generator.random(40) < 0.3
    weights = generator.integers(0, 4, size=(5, 40))
    expected = [roc_auc_score(desirable, rewards, sample_weight=row) for row in weights]
    assert auroc(desirable[:, None], rewards[:, None], weights) == pytest.approx(expected)
    assert np.isnan(auroc(np.ones((40, 1), bool), rewards[:, None], weights)).all()


def test_judged_answers_have_an_interval_although_some_resamples_lack_a_kind() -> None:
    baseline = np.full((8, 1), -4.0)
    tuned = baseline + np.array([[3.0], [2], [2.5], [1], [2], [3], [0.5], [-1]])
    desirable = np.array([True] * 7 + [False])
    measured = Measured(baseline, tuned, np.full((8, 1), 2), desirable, 0.1)
    area, margin = measured.results((Metric.AUROC, Metric.MARGIN), seed=1)
    assert area.tuned == 1
    assert area.change == 0.5
    assert area.interval == (0.5, 0.5)
    assert margin.tuned == pytest.approx(0.1 * (2 + 1))
    assert margin.interval[0] > 0
    assert area.baseline is None
