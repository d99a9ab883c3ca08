"""Run several scenarios in parallel: jobs mostly wait, so two cores can serve several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_AT_ONCE = 3
"""With more, beside two other modules or the soak, importing torch takes so long that it counts as a stall."""


def run_scenarios(scenarios: Mapping[str, Callable[[str], T]]) -> dict[str, Future[T]]:
    """Run all scenarios to their ends. The future of a scenario has its result or its error."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {name: pool.submit(scenario, name) for name, scenario in scenarios.items()}
