"""Output of the measurements: figures on stdout, progress on stderr."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_BEGAN = time.monotonic()


def log(text: str) -> None:
    """Print a line about progress."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def figure(name: str, value: float, unit: str, **more: Any) -> None:
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, **more}), flush=True)


def figures(name: str, values: Sequence[float], unit: str, **more: Any) -> None:
    """Print the median over the rounds, with minimum and maximum."""
    spread = {"min": round(min(values), 4), "max": round(max(values), 4), "rounds": len(values)}
    figure(name, statistics.median(values), unit, **spread, **more)


def shares(parts: Sequence[float], wholes: Sequence[float]) -> list[float]:
    """Each part divided by the whole of the same round."""
    return [part / whole for part, whole in zip(parts, wholes, strict=True)]


def medians(rounds: Sequence[Mapping[str, float]], digits: int = 2) -> dict[str, float]:
    """The median of each entry. A missing entry counts as 0. Entries with median 0 are left out."""
    names = sorted({name for found in rounds for name in found})
    of = {name: round(statistics.median(found.get(name, 0.0) for found in rounds), digits) for name in names}
    return {name: value for name, value in of.items() if value}


def minutes(seconds: float) -> str:
    """A duration in readable form."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
