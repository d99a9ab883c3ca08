"""What runs here needs no torch: `make test-unit` has none, and where there is one, importing it is an error."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

import pytest

_ABSENT = frozenset({"accelerate", "deepspeed", "peft", "torch", "transformers"})


class _NotHere(MetaPathFinder):
    """Finds nothing, and lets nobody else look."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"{fullname} is not for unit tests: see {__file__}", name=fullname)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Tests of another folder, in the same process, may have imported it already."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in _ABSENT}
    finder = _NotHere()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(hidden)


# pytest calls these for what lies in this folder only.


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, object, object]:
    with _without_torch():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    with _without_torch():
        return (yield)
