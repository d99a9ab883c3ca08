"""The result of the train stage in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trained:
    """The result of a rank; only the directory of rank 0 contains files."""

    directory: Path
    summary: dict[str, Any]
    """The fields of TrainResult in camelCase, except uri and digest."""
