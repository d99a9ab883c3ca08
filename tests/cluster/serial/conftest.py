"""Tests that one process runs sequentially.

All except the soak disturb every job on the cluster, so no other test runs at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.sharing import Turns


@pytest.fixture(scope="session")
def alone(turns: Turns) -> Iterator[ExitStack]:
    """Hold the cluster alone for all of them, until closed: between two modules, others would take it for minutes."""
    with ExitStack() as turn:
        turn.enter_context(turns.alone())
        yield turn


@pytest.fixture(scope="module", autouse=True)
def turn(alone: ExitStack) -> None:
    """The module has the cluster alone."""
