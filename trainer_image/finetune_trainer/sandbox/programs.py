"""Programs to run, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from finetune_trainer.sandbox.limits import SOURCE


@dataclass(frozen=True)
class Program:
    """A Python program and its tests, which run after it in the same namespace."""

    code: str
    tests: str


class Ending(StrEnum):
    """How a program ended."""

    PASSED = "Passed"
    FAILED = "Failed"
    """An exception of the program or of a test, such as AssertionError."""
    EXITED = "Exited"
    """The process ended before the last test had run."""
    TIME = "Time"
    MEMORY = "Memory"
    PROCESSES = "Processes"
    FILES = "Files"
    OUTPUT = "Output"


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    ending: Ending
    detail: str = ""
    """What failed and where, such as ``AssertionError in line 2 of the tests: assert double(0) == 0``."""

    @property
    def passed(self) -> bool:
        return self.ending is Ending.PASSED


TOO_LONG = Outcome(Ending.FAILED, f"the program or its tests have more than {SOURCE:,} characters")

OnPrograms = Callable[[int], None]
"""Called with the number of programs that have ended since the last call; with 0 as a sign of life."""


class Sandbox(Protocol):
    """Runs programs; a context manager that ends what it has started."""

    @property
    def details(self) -> Mapping[str, str]:
        """What isolates the programs, for evaluation.json; known when the sandbox has been entered."""

    def __enter__(self) -> Sandbox: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, programs: Sequence[Program], on_programs: OnPrograms) -> list[Outcome]:
        """Run ``programs``, each in a process of its own, some at a time; outcomes are in the order of the programs.

        Raises:
            StageFailure: BadConfiguration when this machine cannot isolate programs; Unavailable when the container
                that runs them is gone.
        """
