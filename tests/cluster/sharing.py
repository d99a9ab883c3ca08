"""Share one cluster among several test processes: start, stop, and exclusive use."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from tests.cluster.layout import CACHE, RUN
from tests.tools import locked


class Turns:
    """A fair lock between processes: shared by tests that do not disturb others, exclusive for one that does."""

    def __init__(self, what: str = "cluster") -> None:
        self._door = _locks() / f"{what}-door"
        self._floor = (_locks() / f"{what}-floor").open("w")

    def together(self) -> AbstractContextManager[None]:
        """Hold the lock shared with others."""
        return self._there(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lock exclusively."""
        return self._there(fcntl.LOCK_EX)

    @contextmanager
    def _there(self, how: int) -> Iterator[None]:
        # A process that waits for exclusive use holds the door, so that later shared users cannot starve it.
        with locked(self._door):
            fcntl.flock(self._floor, how)
        try:
            yield
        finally:
            fcntl.flock(self._floor, fcntl.LOCK_UN)


class Use:
    """The use of the cluster by one test run. The last run stops the cluster if a test run started it."""

    def __init__(self) -> None:
        self._ours = RUN / "for-the-tests-alone"
        self._first = _locks() / "first"
        self._users = (_locks() / "users").open("w")

    def begin(self, prepare: Callable[[], bool]) -> None:
        """Call ``prepare`` if this is the first user. It returns whether it had to start the cluster."""
        with locked(self._first):
            if _nobody_holds(self._users) and prepare():
                self._ours.touch()
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def end(self, down: Callable[[], None]) -> None:
        with locked(self._first):
            fcntl.flock(self._users, fcntl.LOCK_UN)
            if self._ours.exists() and _nobody_holds(self._users):
                down()


def _locks() -> Path:
    """The directory of the lock files, which outlive the cluster."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _nobody_holds(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
