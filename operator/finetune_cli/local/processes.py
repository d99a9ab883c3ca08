"""Stage processes of this machine: told apart, found again after a crash, and ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MARK = "FINETUNE_RUN_DIRECTORY"
"""Environment variable that every process of a run inherits, wherever it moves."""

_POLL_SECONDS = 0.05


def identity(pid: int) -> str:
    """What tells a process from a later one with the same pid: its start time. Empty when there is no such process."""
    if sys.platform == "linux":
        try:
            # The name in parentheses may hold blanks; the start time is field 22.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def living(directory: Path, pid: int | None = None, known_as: str = "") -> list[int]:
    """Pids of the processes of the run in ``directory``; ``pid`` is its first one, if it is still ``known_as``."""
    found = set(_marked(directory))
    if pid is not None and known_as and identity(pid) == known_as and not _is_zombie(pid):
        found.add(pid)
    return sorted(found)


def kill(pids: list[int]) -> None:
    """SIGKILL to each that still is there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """SIGKILL to every process of the group that ``leader`` led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_orphans(
    directory: Path, pid: int, known_as: str, grace_seconds: float, hurry: Callable[[], bool] = lambda: False
) -> None:
    """End a run whose executor is gone: asked first, so that it can write a checkpoint, unless there is a ``hurry``.

    It blocks until nothing of the run is left.
    """
    left = living(directory, pid, known_as)
    if pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while pid in left and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL_SECONDS)
            left = living(directory, pid, known_as)
    while left := living(directory, pid, known_as):
        kill(left)
        time.sleep(_POLL_SECONDS)


def _marked(directory: Path) -> list[int]:
    wanted = f"{MARK}={directory}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid() and not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return sys.platform == "linux"
