"""Metrics by the rules of SQuAD 2.0."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_api.spec import Metric
from finetune_trainer.tasks.question_answering.scoring import Scores, exact_match, squad_f1, weights

# Prediction, references, exact match and F1 by the evaluation script of SQuAD 2.0.
TABLE = [
    ("Denver Broncos", ["Denver Broncos", "The Denver Broncos"], 1, 1.0),
    ("the Denver Broncos!", ["Denver Broncos"], 1, 1.0),
    ("in 1854", ["1854", "the year 1854"], 0, 2 / 3),
    ("", [], 1, 1.0),
    ("yes", [], 0, 0.0),
    ("", ["x"], 0, 0.0),
    ("A", ["A"], 1, 1.0),
    ("", ["The"], 1, 1.0),
    ("twenty one", ["twenty-one"], 0, 0.0),
    ("1,000", ["1000"], 1, 1.0),
    ("“Hello”", ["Hello"], 0, 0.0),
    ("Zürich", ["zürich"], 1, 1.0),
    ("東京 です", ["東京"], 0, 2 / 3),
    ("night crew on Monday", ["the night crew", "crew"], 0, 2 / 3),
]


@pytest.mark.parametrize(("prediction", "references", "exact", "f1"), TABLE)
def test_scores_are_those_of_the_script(prediction: str, references: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, references) == exact
    assert squad_f1(prediction, references) == pytest.approx(f1, abs=1e-9)


def test_the_scores_of_a_split_are_the_means() -> None:
    scores = Scores.of([row[0] for row in TABLE], [row[1] for row in TABLE])
    assert scores.exact.mean() == pytest.approx(0.5)
    assert scores.f1.mean() == pytest.approx(0.642857, abs=1e-4)


def test_the_parts_are_weighted_by_whether_there_is_an_answer() -> None:
    references = [["x"], [], ["the"]]
    assert weights(Metric.SQUAD_F1, references).tolist() == [1, 1, 1]
    assert weights(Metric.HAS_ANSWER_F1, references).tolist() == [1, 0, 1]
    assert weights(Metric.NO_ANSWER_F1, references).tolist() == [0, 1, 0]
    scores = Scores(exact=np.array([0.0, 1.0, 0.0]), f1=np.array([0.5, 1.0, 0.0]))
    assert scores.values(Metric.EXACT_MATCH) is scores.exact
    assert scores.values(Metric.HAS_ANSWER_F1) is scores.f1
