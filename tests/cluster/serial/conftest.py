"""Tests that one process runs one after the other.

All but the soak disturb every job of the cluster: nothing else happens there meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.sharing import Turns


@pytest.fixture(scope="session")
def alone(turns: Turns) -> Iterator[ExitStack]:
    """One turn for all of them, until it is closed: between two, others would come in for minutes."""
    with ExitStack() as turn:
        turn.enter_context(turns.alone())
        yield turn


@pytest.fixture(scope="module", autouse=True)
def turn(alone: ExitStack) -> None:
    """Nobody else is there."""
