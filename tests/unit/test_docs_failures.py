"""Every line of docs/failures.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LINES = [
    line
    for line in (TESTS.parent / "docs" / "failures.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| what fails")
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_every_line_names_an_existing_test(line: str) -> None:
    found = re.search(r"`([\w/]+/test_\w+\.py)(?:(?:::Test\w+)?::(test_\w+))?` \|$", line)
    assert found, "the last column names no test"
    source = (TESTS / found[1]).read_text()
    assert found[2] is None or re.search(rf"def {found[2]}\(", source)


def test_the_page_has_lines() -> None:
    assert len(LINES) > 20
