"""The best span of all windows, and the threshold of no answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from finetune_trainer.tasks.question_answering.spans import (
    BestSpans,
    best_span,
    choose_threshold,
    is_answered,
    text_of,
)

# has an answer, best span is right, score of no answer minus that of the best span
VALIDATION = [(1, 1, -6), (1, 1, -3), (1, 1, 1.0), (1, 0, 0.5), (0, 0, 2.0), (0, 0, 4), (0, 0, -4), (0, 0, 3)]
TEST = [(1, 1, -2), (1, 1, 2.5), (1, 0, -1), (0, 0, 0.5), (0, 0, 3), (0, 0, 6)]


def columns(rows: list[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margin, score with the best span, score without an answer."""
    table = np.array(rows, dtype=np.float64)
    return table[:, 2], table[:, 1], 1 - table[:, 0]


def test_the_threshold_is_the_best_of_validation_and_is_held_on_test() -> None:
    margin, answered, unanswered = columns(VALIDATION)
    threshold = choose_threshold(margin, answered, unanswered)
    assert threshold == 1.5
    right = np.where(is_answered(margin, threshold), answered, unanswered)
    assert right.mean() == 0.75
    margin, answered, unanswered = columns(TEST)
    right = np.where(is_answered(margin, threshold), answered, unanswered)
    assert right.mean() == 0.5
    assert right[:3].mean() == pytest.approx(1 / 3)
    assert right[3:].mean() == pytest.approx(2 / 3)


def test_without_a_question_that_has_no_answer_there_is_no_threshold() -> None:
    threshold = choose_threshold(np.array([-1.0, 9.0]), np.array([1.0, 0.0]), np.zeros(2))
    assert threshold is None
    assert is_answered(np.array([-1.0, 1e9]), threshold).all()


def test_a_threshold_may_lie_beyond_all_questions_and_divides_no_equal_ones() -> None:
    assert choose_threshold(np.array([1.0, 2.0]), np.array([0.0, 0.0]), np.array([1.0, 1.0])) == 0.0
    assert choose_threshold(np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([0.0, 0.1])) == 3.0
    assert choose_threshold(np.array([5.0, 5.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 4.0


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_the_best_span_is_that_of_all_pairs(longest: int) -> None:
    logits = np.random.default_rng(longest).normal(size=(2, 12)).astype(np.float32)
    blank = np.zeros(12, np.bool_)
    blank[[4, 7]] = True
    pairs = [
        (float(logits[0, first] + logits[1, last]), first, last)
        for first, last in itertools.product(range(12), range(12))
        if first <= last < first + longest and not blank[first] and not blank[last]
    ]
    score, first, last = max(pairs)
    found = best_span(logits, blank, longest)
    assert found[:2] == (first, last)
    assert found[2] == pytest.approx(score, rel=1e-6)


def test_first_and_last_token_can_be_the_answer_and_a_context_of_blanks_has_none() -> None:
    logits = np.array([[9.0, 0, 0], [0, 0, 9.0]], np.float32)
    assert best_span(logits, np.zeros(3, np.bool_), 3) == (0, 2, 18.0)
    assert best_span(logits, np.ones(3, np.bool_), 3)[2] == -np.inf


def test_a_question_has_the_best_span_and_the_lowest_score_of_no_answer_of_its_windows() -> None:
    windows = BestSpans(
        first=np.array([0, 16, 3]),
        last=np.array([1, 18, 3]),
        score=np.array([2.0, 5.0, 1.0]),
        null=np.array([3.0, -1, 8]),
    )
    best = windows.of_questions(np.array([0, 0, 1]), 2)
    assert (best.first.tolist(), best.last.tolist()) == ([16, 3], [18, 3])
    assert best.margin.tolist() == [-6.0, 7.0]


def test_a_question_without_any_span_has_a_finite_margin_and_threshold() -> None:
    none = BestSpans.empty(2)
    none.null[:] = 1.0
    none.score[0] = 0.5
    assert none.margin[0] == 0.5
    threshold = choose_threshold(none.margin, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert threshold is not None
    assert np.isfinite(threshold)
    assert is_answered(none.margin, threshold).tolist() == [True, False]


def test_the_text_of_tokens_that_share_a_character_is_a_slice() -> None:
    assert text_of([(0, 3), (4, 6), (4, 6), (7, 9)], 1, 2) == (4, 6)
    assert text_of([(0, 3), (4, 6), (4, 6), (7, 9)], 0, 3) == (0, 9)
