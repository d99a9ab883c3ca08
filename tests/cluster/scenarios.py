"""Things that happen to jobs at the same time: much of a job's life is waiting, and two cores can wait for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_AT_ONCE = 3
"""With more, beside two other modules or the soak, what starts takes so long to import torch that it counts as hung."""


def played(scenarios: Mapping[str, Callable[[str], T]]) -> dict[str, Future[T]]:
    """Play all scenarios to their ends, each with its name; a test that asks for its result gets its error too."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {name: pool.submit(scenario, name) for name, scenario in scenarios.items()}
