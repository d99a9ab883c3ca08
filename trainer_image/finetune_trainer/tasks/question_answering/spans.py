"""The answers of an encoder: the best span of all windows of a context, or none. Pure.

Every span of at most a number of tokens is compared, so that none is missed as by combining the n best starts and ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics import Floats, Ints
from finetune_trainer.tasks.question_answering.offsets import Offsets

Logits = NDArray[np.float32]

LONGEST_ANSWER = 30
"""Tokens that an answer may have at least; more if a longer one is learned."""


@dataclass(frozen=True)
class BestSpans:
    """The best span of each window, or of each question, and the score of no answer; arrays of shape (rows,)."""

    first: Ints
    """First token, in the tokens of the whole context."""
    last: Ints
    """Last token, likewise."""
    score: Floats
    """Sum of the two logits; minus infinity without any span."""
    null: Floats
    """Sum of the two logits of the null position."""

    @classmethod
    def empty(cls, rows: int) -> BestSpans:
        """Without any span yet."""
        first, last = np.zeros((2, rows), np.int64)
        return cls(first, last, score=np.full(rows, -np.inf), null=np.full(rows, np.inf))

    @property
    def margin(self) -> Floats:
        """By how much the score of no answer exceeds that of the best span; a large number without any span."""
        return np.where(np.isfinite(self.score), self.null - self.score, float(np.finfo(np.float32).max))

    def of_questions(self, questions: Ints, count: int) -> BestSpans:
        """The best span of all windows of each question. The score of no answer is the lowest of its windows: an answer
        in one of them is enough.

        Args:
            questions: Index of the question of each window.
            count: Number of questions.
        """
        best = BestSpans.empty(count)
        np.minimum.at(best.null, questions, self.null)
        for window, question in enumerate(questions):
            if self.score[window] > best.score[question]:
                best.score[question] = self.score[window]
                best.first[question] = self.first[window]
                best.last[question] = self.last[window]
        return best


def best_span(logits: Logits, blank: NDArray[np.bool_], longest: int) -> tuple[int, int, float]:
    """The first and the last token of the span with the highest sum of logits, and that sum.

    Args:
        logits: Of the tokens of the context as start and as end, of shape (2, tokens).
        blank: Tokens without characters, at which no answer starts or ends, of shape (tokens,).
        longest: Largest number of tokens of an answer.
    """
    starts, ends = np.where(blank, -np.inf, logits)
    best = (0, 0, -np.inf)
    for distance in range(min(longest, len(blank))):
        sums = starts[: len(starts) - distance] + ends[distance:]
        first = int(np.argmax(sums))
        if sums[first] > best[2]:
            best = (first, first + distance, float(sums[first]))
    return best


def text_of(offsets: Offsets, first: int, last: int) -> tuple[int, int]:
    """The characters of the tokens from ``first`` to ``last``: start and exclusive end of a slice of the context."""
    return offsets[first][0], max(offsets[first][1], offsets[last][1])


def choose_threshold(margin: Floats, answered: Floats, unanswered: Floats) -> float | None:
    """The margin above which a question gets no answer, so that the sum of the scores is the highest.

    It lies in the middle between two questions. Of thresholds that are equally good, it is the one closest to 0.

    Args:
        margin: By how much the score of no answer exceeds that of the best span, of shape (questions,).
        answered: Score of each question with the best span as answer.
        unanswered: Score of each question without an answer.

    Returns:
        None, for no threshold, if no question is right without an answer.
    """
    if not np.any(unanswered > 0):
        return None
    order = np.argsort(margin, kind="stable")
    ascending = margin[order]
    # Before the first question no one is answered, after the last everyone.
    gains = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    between = (ascending[1:] + ascending[:-1]) / 2
    thresholds = np.concatenate([[ascending[0] - 1], between, [ascending[-1] + 1]])
    divides = np.concatenate([[True], ascending[1:] > ascending[:-1], [True]])
    best = np.flatnonzero(divides & (gains >= gains[divides].max() - 1e-9))
    return float(thresholds[best[np.argmin(np.abs(thresholds[best]))]])


def is_answered(margin: Floats, threshold: float | None) -> NDArray[np.bool_]:
    """Which questions get an answer, of shape (questions,)."""
    return np.ones(len(margin), np.bool_) if threshold is None else margin <= threshold
