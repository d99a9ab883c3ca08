"""Metrics of generated code (case 20)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.sandbox.programs import Ending, Outcome, Program
from finetune_trainer.tasks.code_generation.presentation import baseline_note
from finetune_trainer.tasks.code_generation.scoring import CodeScoring, endings, exact_match, pass_at_k
from tests.unit.api_cases import CODE


@pytest.mark.parametrize(
    ("samples", "passed", "k", "value"),
    [(10, 3, 1, 0.3), (10, 3, 5, 0.916667), (10, 0, 5, 0), (4, 4, 3, 1), (5, 2, 5, 1), (20, 1, 10, 0.5)],
)
def test_pass_at_k_is_unbiased(samples: int, passed: int, k: int, value: float) -> None:
    assert pass_at_k(samples, passed, k) == pytest.approx(value, abs=1e-6)


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples, not 3"):
        pass_at_k(3, 1, 5)


@pytest.mark.parametrize(
    ("answer", "equal"),
    [("    return x", 1), ("    return x\n\n", 1), ("return x\n", 0), ("    return x \n", 0), ("\n    return x\n", 0)],
)
def test_only_line_breaks_at_the_end_do_not_count(answer: str, equal: int) -> None:
    assert exact_match(answer, "    return x\n") == equal


def run(programs: Sequence[Program]) -> list[Outcome]:
    """Says which programs are right, without running them."""
    right = ["2 * x" in program.code for program in programs]
    return [Outcome(Ending.PASSED) if passed else Outcome(Ending.FAILED, "no") for passed in right]


def scoring(samples: int = 1, tests: Sequence[str] = ("t", ""), **evaluation: Any) -> CodeScoring:
    metrics = [
        "pass_at_1",
        *(["pass_at_5"] if samples >= 5 else []),
        "exact_match",
        "parses",
        *(["chrf"] if samples > 1 else []),
    ]
    settings = {"allowCodeExecution": True, "metrics": metrics, "generation": {"samples": samples}, **evaluation}
    spec = FineTuneJobSpec.model_validate_json(json.dumps(CODE | {"evaluation": settings}))
    rows = {
        "source": ["a:1", "a:2"],
        "prompt": ["def f(x):\n"] * 2,
        "reference": ["    return 2 * x\n"] * 2,
        "tests": list(tests),
    }
    return CodeScoring(pa.table(rows), spec, run)


def test_only_rows_with_tests_count_in_pass_at_k() -> None:
    measured = scoring()
    answers = [["    return 2 * x\n"], ["    return x\n"]]
    assert measured.values(Metric.PASS_AT_1, answers).tolist() == [1, 0]
    assert measured.weights(Metric.PASS_AT_1).tolist() == [1, 0]
    assert measured.weights(Metric.EXACT_MATCH).tolist() == [1, 1]
    assert measured.values(Metric.EXACT_MATCH, answers).tolist() == [1, 0]
    assert measured.details["rowsWithTests"] == 1
    row = measured.row(0, ["    return x\n"], answers[0])
    assert row["tests"] == "t"
    assert row["outcomes"]["tuned"] == [{"ending": "Passed", "detail": ""}]
    assert "outcomes" not in measured.row(1, answers[1], answers[1])


def test_metrics_are_means_over_the_samples() -> None:
    measured = scoring(samples=5)
    right, wrong = "    return 2 * x\n", "    return (\n"
    answers = [[right, wrong, right, wrong, wrong], [right] * 5]
    assert measured.values(Metric.PASS_AT_1, answers)[0] == pytest.approx(0.4)
    assert measured.values(Metric.PASS_AT_5, answers)[0] == 1
    for metric in (Metric.EXACT_MATCH, Metric.PARSES):
        assert measured.values(metric, answers).tolist() == pytest.approx([0.4, 1])
    statistics = measured.statistics(Metric.CHRF, answers)
    assert measured.corpora[Metric.CHRF].score(statistics[1]) == pytest.approx(100)
    assert len(statistics) == 2
    row = measured.row(0, answers[0], answers[1])
    assert (row["baseline"], row["samples"]["baseline"]) == (right, answers[0])
    assert [one["ending"] for one in row["outcomes"]["baseline"]] == ["Passed", "Failed", "Passed", "Failed", "Failed"]
    assert endings([row])["baseline"] == {"Failed": 3, "Passed": 2}


def test_a_split_without_tests_is_refused() -> None:
    with pytest.raises(StageFailure, match="No row of the test split has tests, so pass_at_1 measures nothing"):
        scoring(tests=["", ""]).metrics()


def test_no_program_is_run_in_training() -> None:
    spec = FineTuneJobSpec.model_validate_json(json.dumps(CODE | {"evaluation": {"allowCodeExecution": True}}))
    table = pa.table({name: ["x"] for name in ("source", "prompt", "reference", "tests")})
    measured = CodeScoring(table, spec)
    assert not measured.weights(Metric.PASS_AT_1).any()
    assert np.isfinite(measured.values(Metric.EXACT_MATCH, [["x"]])).all()


def test_answers_are_cut_as_references_are() -> None:
    measured = scoring()
    assert measured.read(0, "    return 2 * x\n\nprint(f(1))\n") == "    return 2 * x\n\n"


def test_the_report_says_what_counts() -> None:
    measured = scoring(samples=5)
    measured.statistics(Metric.CHRF, [["a"] * 5] * 2)
    details = dict(measured.details) | {"maxNewTokens": 9, "decoding": "sampling"}
    note = baseline_note(details)
    assert "Where the prompt leaves an indented block open" in note
    assert "Metrics other than pass@k are means" in note
    assert "1 of the 2 test examples have tests." in note
    assert not baseline_note({})
