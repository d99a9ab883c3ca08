"""Things that happen to jobs at the same time: most of a job's life is waiting, and two cores can wait for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def played(scenarios: Mapping[str, Callable[[str], T]]) -> dict[str, Future[T]]:
    """Play all scenarios to their ends, each with its name; a test that asks for its result gets its error too."""
    with ThreadPoolExecutor(len(scenarios)) as pool:
        return {name: pool.submit(scenario, name) for name, scenario in scenarios.items()}
