"""The recorded results of `make test-methods`."""

from __future__ import annotations

from tests.combinations.cells import cells
from tests.combinations.results import Outcome, Result, page, read_results


def test_every_combination_was_tried_and_none_failed() -> None:
    results = read_results()
    assert set(results) == {cell.name for cell in cells()}
    assert [result for result in results.values() if result.outcome is Outcome.FAILED] == []


def test_a_refusal_leads_to_its_reason() -> None:
    first, second, third, *_ = (cell.name for cell in cells())
    results = {
        first: Result(cell=first, outcome=Outcome.WORKS),
        second: Result(cell=second, outcome=Outcome.ADMISSION, reason="it is for adapters"),
        third: Result(cell=third, outcome=Outcome.PREPARE, reason="it is for adapters"),
    }
    text = page(results)
    assert "1 of " in text
    assert "2 are refused" in text
    assert text.count("no (1)") == 2
    assert text.endswith("## Reasons\n\n1. it is for adapters\n")
