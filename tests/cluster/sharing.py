"""One cluster for several processes of tests: who brings it up and takes it down, and who has it to themselves."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tests.cluster.layout import CACHE, RUN


class Turns:
    """Whose turn it is: of any number that leave each other alone, or of one that disturbs everybody."""

    def __init__(self) -> None:
        # Who waits to be alone holds the door, so that those who come later do not keep it waiting for ever.
        self._door, self._floor = _file("door"), _file("floor")
        self._is_together = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be there with others, and disturb none of them."""
        self._enter(fcntl.LOCK_SH)
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            fcntl.flock(self._floor, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be there without any others; within :meth:`together` this waits until they are done."""
        fcntl.flock(self._floor, fcntl.LOCK_UN)
        self._enter(fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Whoever is at the door keeps it until the floor is free: it must not be held on the way there.
            fcntl.flock(self._floor, fcntl.LOCK_SH if self._is_together else fcntl.LOCK_UN)

    def _enter(self, how: int) -> None:
        with _held(self._door):
            fcntl.flock(self._floor, how)


@contextmanager
def used(prepare: Callable[[], bool], down: Callable[[], None]) -> Iterator[None]:
    """Use one cluster with other processes: the first calls ``prepare``, the last ``down`` if that brought it up."""
    ours = RUN / "for-the-tests-alone"
    with _file("first") as first, _file("users") as users:
        with _held(first):
            if _nobody_holds(users):
                try:
                    if prepare():
                        ours.touch()
                except BaseException:
                    down()
                    raise
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with _held(first):
                fcntl.flock(users, fcntl.LOCK_UN)
                if ours.exists() and _nobody_holds(users):
                    down()


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Do ``what`` while no other process does it."""
    with _file(what) as file, _held(file):
        yield


def _file(name: str) -> TextIO:
    """A file to lock; it outlives the cluster."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / name).open("w")


@contextmanager
def _held(file: TextIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _nobody_holds(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
