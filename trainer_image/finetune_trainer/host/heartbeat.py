"""The heartbeat of a stage: a file that the host touches at every sign of progress.

``python -m finetune_trainer.host.heartbeat FILE SECONDS`` is the readiness probe of a pod. It exits with 1 if the last
sign of progress is older than SECONDS. It runs every few seconds, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path


def beat(file: Path) -> None:
    """Record a sign of progress."""
    # A full disk fails the stage by itself, with a better message.
    with contextlib.suppress(OSError):
        file.touch()


def age(file: Path) -> float:
    """Seconds since the last sign of progress, by the clock of this machine; infinite before the first."""
    try:
        return max(time.time() - file.stat().st_mtime, 0.0)
    except OSError:
        return float("inf")


if __name__ == "__main__":
    sys.exit(age(Path(sys.argv[1])) > float(sys.argv[2]))
