"""What the measurements print: figures on stdout, what goes on on stderr."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Tell a person what goes on."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def figure(name: str, value: float, unit: str, **more: Any) -> None:
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, **more}), flush=True)


def figures(name: str, values: Sequence[float], unit: str, **more: Any) -> None:
    """The median of the rounds' values, with the least and the greatest."""
    spread = {"min": round(min(values), 4), "max": round(max(values), 4), "rounds": len(values)}
    figure(name, statistics.median(values), unit, **spread, **more)


def shares(parts: Sequence[float], wholes: Sequence[float]) -> list[float]:
    """Each value by that of the same round."""
    return [part / whole for part, whole in zip(parts, wholes, strict=True)]


def medians(rounds: Sequence[Mapping[str, float]], digits: int = 2) -> dict[str, float]:
    """The median of each entry; one that a round lacks is 0 there. Entries that are 0 are left out."""
    names = sorted({name for found in rounds for name in found})
    of = {name: round(statistics.median(found.get(name, 0.0) for found in rounds), digits) for name in names}
    return {name: value for name, value in of.items() if value}


def minutes(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
