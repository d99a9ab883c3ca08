"""How several processes share the tests out, and what else holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup``, tests that share what one of them makes stay in one process; any other goes to any."""
    # What xdist tells its processes in place of the option.
    if not config.getoption("loadgroup", False):
        return
    for item in items:
        if _shares(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items[:] = interleaved(items)


def _shares(item: pytest.Item) -> bool:
    """Whether the test has a fixture that lives longer than it; those of the session each process has for itself."""
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    return any(found[-1].scope in ("class", "module", "package") for found in fixtures.values())


def interleaved(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests of each folder in their order, spread evenly: some folders' tests compute, others' mostly wait."""
    folders: dict[str, list[pytest.Item]] = {}
    for item in items:
        folders.setdefault(item.nodeid.rpartition("/")[0], []).append(item)
    places = [(place / len(found), item) for found in folders.values() for place, item in enumerate(found)]
    return [item for _, item in sorted(places, key=lambda pair: pair[0])]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Where coverage is measured, each line is put down to the test that runs it."""
    measured = Coverage.current()
    if measured:
        measured.switch_context(item.nodeid)
    return (yield)
