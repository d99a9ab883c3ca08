"""One cluster for several processes of tests: who brings it up and takes it down, and who has it to themselves."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from tests.cluster.layout import CACHE, RUN
from tests.tools import locked


class Turns:
    """Whose turn it is with something: of any number that leave each other alone, or of one that disturbs everybody."""

    def __init__(self, what: str = "cluster") -> None:
        self._door = _locks() / f"{what}-door"
        self._floor = (_locks() / f"{what}-floor").open("w")

    def together(self) -> AbstractContextManager[None]:
        """Be there with others, and disturb none of them."""
        return self._there(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Be there without any others."""
        return self._there(fcntl.LOCK_EX)

    @contextmanager
    def _there(self, how: int) -> Iterator[None]:
        # Who waits to be alone holds the door, so that those who come later do not keep it waiting for ever.
        with locked(self._door):
            fcntl.flock(self._floor, how)
        try:
            yield
        finally:
            fcntl.flock(self._floor, fcntl.LOCK_UN)


class Use:
    """The use of one cluster by a run of tests, beside others: the last one takes it down, if tests brought it up."""

    def __init__(self) -> None:
        self._ours = RUN / "for-the-tests-alone"
        self._first = _locks() / "first"
        self._users = (_locks() / "users").open("w")

    def begin(self, prepare: Callable[[], bool]) -> None:
        """The first user has the cluster prepared; ``prepare`` says whether it did not run before."""
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
    """Where the files to lock are; they outlive the cluster."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _nobody_holds(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
