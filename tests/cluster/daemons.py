"""Programs that outlive the process that started them, and are stopped by their process ids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.layout import RUN

_STARTS_WITHIN_SECONDS = 120.0
_ENDS_WITHIN_SECONDS = 30.0


class NotStarted(RuntimeError):
    """A program did not become ready; the message has the end of its log."""


class Daemon:
    """A program of the cluster, identified by its name. Its command is recorded, so that it can be restarted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = RUN / "logs" / f"{name}.log"
        self._record = RUN / "daemons" / f"{name}.json"

    def start(
        self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, ready: Callable[[], bool] = bool
    ) -> None:
        """Start the program and wait until ``ready``. By default it is ready at once.

        Raises:
            NotStarted: The program ended, or was not ready within two minutes.
        """
        for folder in (self.log.parent, self._record.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self._run([str(argument) for argument in arguments], dict(env or {}))
        if ready is not bool:
            self.wait(ready)

    def restart(self, ready: Callable[[], bool] = bool) -> None:
        """Start the program again with the recorded command, unless it is running."""
        if self.pid is None:
            record = json.loads(self._record.read_text())
            self._run(record["arguments"], record["env"])
        if ready is not bool:
            self.wait(ready)

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _STARTS_WITHIN_SECONDS
        while not ready():
            if self.pid is None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
                raise NotStarted(f"{self.name} did not start, see {self.log}:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL if the program does not end."""
        self.signal(signal.SIGTERM)
        if not self._ended():
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.signal(signal.SIGKILL)
        self._ended()

    def signal(self, number: int) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, number)

    @property
    def pid(self) -> int | None:
        """The process id, or None if the program is not running."""
        if not self._record.exists():
            return None
        record = json.loads(self._record.read_text())
        return record["pid"] if record["since"] == started_at(record["pid"]) else None

    def _run(self, arguments: list[str], env: dict[str, str]) -> None:
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                arguments,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                # Less garbage collection in Go programs saves a tenth of their CPU time.
                env=os.environ | {"GOGC": "400"} | env,
                # Ctrl-C in the terminal of the tests must not reach it.
                start_new_session=True,
            )
        record = {"pid": process.pid, "since": started_at(process.pid), "arguments": arguments, "env": env}
        self._record.write_text(json.dumps(record))

    def _ended(self) -> bool:
        deadline = time.monotonic() + _ENDS_WITHIN_SECONDS
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def started_at(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot, or None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def processes(*words: str) -> list[int]:
    """The ids of the processes whose command line contains all of ``words``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


def end_descendants() -> None:
    """End all descendants of this process: send SIGTERM, then SIGKILL to those that remain."""
    deadline = time.monotonic() + _ENDS_WITHIN_SECONDS
    signalled: set[int] = set()
    while pids := descendants(os.getpid()):
        late = time.monotonic() > deadline
        for pid in pids - (set() if late else signalled):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        signalled |= pids
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """The ids of all running descendants of a process."""
    children: dict[int, set[int]] = defaultdict(set)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children[int(parent)].add(int(path.parent.name))
    found: set[int] = set()
    new = children[pid]
    while new:
        found |= new
        new = set().union(*(children[one] for one in new))
    return found
