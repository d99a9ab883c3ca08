"""Run a command and leave no process of it behind: ``python -m tests.supervised COMMAND…``.

Ctrl-C and SIGTERM reach the command. Processes that it leaves behind are ended by their process ids, in whatever
session they are and whichever process started them. If the run was not interrupted, leaving a process behind is an
error. Needs only Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_ENDS_BY_ITSELF_SECONDS, _ENDS_AFTER_SIGTERM_SECONDS = 5.0, 5.0
_LOG_LINES = 15


def run(command: list[str]) -> int:
    """Run ``command`` and return its exit code, or 1 if it left a process behind."""
    # As a subreaper, this process adopts every descendant whose parent ends.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    received: list[int] = []
    # A shell starts background commands with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = os.spawnvp(os.P_NOWAIT, command[0], command)

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        # The terminal sends SIGINT to the whole group. A second SIGINT would interrupt the clean-up.
        if number != signal.SIGINT:
            _signal([main], signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    code = _wait_for(main)
    left = _living_after(0.0 if received else _ENDS_BY_ITSELF_SECONDS)
    for pid in left if not received else ():
        print(f"Left behind: {describe(pid)}", file=sys.stderr)  # noqa: T201
    _end(left)
    if received:
        return 128 + received[0]
    return code or (1 if left else 0)


def descendants(pid: int) -> Iterator[int]:
    """The ids of all descendants of ``pid``, including zombies."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
        for thread in threads:
            if thread != pid:
                children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:
        return
    for child in children:
        yield child
        yield from descendants(child)


def describe(pid: int) -> str:
    """Process id, age and command line of a process, and the end of its log file."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        command = " ".join(word.decode(errors="replace") for word in words)[:300]
        return "\n".join([f"{pid}, {age:.0f} s old: {command}", *_log_of(pid)])
    except (OSError, ValueError, IndexError):
        return f"{pid}, which has ended"


def _log_of(pid: int) -> Iterator[str]:
    log = Path(os.readlink(f"/proc/{pid}/fd/2"))
    if log.is_file():
        yield f"    {log}:"
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            yield from (f"    | {line.decode(errors='replace')}" for line in file.read().splitlines()[-_LOG_LINES:])


def living(pids: Iterator[int]) -> list[int]:
    """The processes that are not zombies."""
    return [pid for pid in pids if _state(pid) not in ("Z", "X", "")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _wait_for(main: int) -> int:
    """Wait for ``main``, reap all other processes that end, and return its exit code in the notation of a shell."""
    while True:
        pid, status = os.wait()
        if pid == main:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _living_after(seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while True:
        _reap()
        left = living(descendants(os.getpid()))
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


def _end(left: list[int]) -> None:
    """Send SIGTERM, then SIGKILL to processes that remain."""
    _signal(left, signal.SIGTERM)
    left = _living_after(_ENDS_AFTER_SIGTERM_SECONDS)
    while left:
        _signal(left, signal.SIGKILL)
        left = _living_after(0.1)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
