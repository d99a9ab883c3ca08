"""Tests that one process runs one after the other.

All but the soak disturb every job of the cluster: nothing else happens there meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.sharing import Turns


@pytest.fixture(scope="module", autouse=True)
def turn(turns: Turns) -> Iterator[None]:
    with turns.alone():
        yield
