"""How several processes share the tests out, and what else holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from coverage import Coverage
from hypothesis import settings

# Tests and their stages share the cores, and tiny models gain nothing by a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SITE = str(Path(__file__).parent / "site")
if _SITE not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_SITE, os.environ.get("PYTHONPATH"))))

# How long one example takes says something about the machine only.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = ["tests.hanging"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadfile``, processes take files in this order: beside tests that compute run some that wait."""
    items[:] = interleaved(items)


def interleaved(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The files of each folder in their order, spread evenly among those of the others; a file stays in one piece."""
    folders: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        file = item.nodeid.partition("::")[0]
        folders.setdefault(file.rpartition("/")[0], {}).setdefault(file, []).append(item)
    places = [(place / len(files), file) for files in folders.values() for place, file in enumerate(files.values())]
    return [item for _, file in sorted(places, key=lambda pair: pair[0]) for item in file]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Where coverage is measured, each line is put down to the test that runs it."""
    measured = Coverage.current()
    if measured:
        measured.switch_context(item.nodeid)
    return (yield)
