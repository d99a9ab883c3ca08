"""Settings for all tests, and the order in which test processes take files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

# Tests and their stages share the cores, and a second thread does not speed up tiny models.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SITE = str(Path(__file__).parent / "site")
if _SITE not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_SITE, os.environ.get("PYTHONPATH"))))

# The duration of one example depends only on the machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = ["tests.hanging"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for ``--dist loadfile``, so that tests that compute run in parallel with tests that wait."""
    items[:] = interleaved(items)


def interleaved(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Interleave the files of all folders evenly. A folder's files keep their order, and a file stays in one piece."""
    folders: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        file = item.nodeid.partition("::")[0]
        folders.setdefault(file.rpartition("/")[0], {}).setdefault(file, []).append(item)
    places = [(place / len(files), file) for files in folders.values() for place, file in enumerate(files.values())]
    return [item for _, file in sorted(places, key=lambda pair: pair[0]) for item in file]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """If coverage is measured, record the current test as its context."""
    if measuring := sys.modules.get("measuring"):
        measuring.switch_context(item.nodeid)
    return (yield)
