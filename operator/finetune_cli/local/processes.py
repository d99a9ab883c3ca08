"""Stage processes: identified, found again after a crash of the executor, and killed with their descendants."""

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
"""Environment variable that every descendant of a run inherits, also in another session."""

_POLL_SECONDS = 0.05


def identity(pid: int) -> str:
    """The start time of a process, to distinguish it from a later one with the same pid; empty if there is none."""
    if sys.platform == "linux":
        try:
            # The name in parentheses may contain spaces; the start time is field 22.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
    output = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return output.stdout.strip()


def alive(directory: Path, pid: int | None = None, expected_identity: str = "") -> list[int]:
    """Pids of the run in ``directory``; ``pid`` is its first process, if it still has ``expected_identity``."""
    found = set(_marked(directory))
    if pid is not None and expected_identity and identity(pid) == expected_identity and not _is_zombie(pid):
        found.add(pid)
    return sorted(found)


def kill(pids: list[int]) -> None:
    """Send SIGKILL to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """Send SIGKILL to the process group of ``leader``."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def stop_orphans(
    directory: Path, pid: int, expected_identity: str, grace_seconds: float, force: Callable[[], bool] = lambda: False
) -> None:
    """Stop a run whose executor was killed: SIGTERM, so that it can checkpoint, then SIGKILL.

    SIGKILL follows after ``grace_seconds``, or when ``force`` returns True.

    Blocks until no process of the run is left.
    """
    left = alive(directory, pid, expected_identity)
    if pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while pid in left and time.monotonic() < deadline and not force():
            time.sleep(_POLL_SECONDS)
            left = alive(directory, pid, expected_identity)
    while left := alive(directory, pid, expected_identity):
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
