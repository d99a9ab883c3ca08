"""A sample of the combinations that `make test-methods` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.combinations.cells import cells
from tests.combinations.results import Outcome, read_results
from tests.combinations.run import run

SAMPLE = (
    "TextClassification-with-several-labels:causal:IA3:None",
    "CodeGeneration:seq2seq:PTuning:None",
    "PreferenceTuning-ORPO:causal:IA3:None",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_gives_the_recorded_result(name: str, tmp_path: Path) -> None:
    (cell,) = [cell for cell in cells() if cell.name == name]
    result = run(cell, tmp_path)
    assert result.outcome is Outcome.WORKS, result.reason
    assert read_results()[name].outcome is result.outcome
