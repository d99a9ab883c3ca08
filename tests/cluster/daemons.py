"""Programs that outlive the one that started them, and are ended by their process ids."""

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
    """A program did not get ready; the message has the end of its log."""


class Daemon:
    """A program of the cluster, known by its name; how it was started is kept, so that it can be started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = RUN / "logs" / f"{name}.log"
        self._record = RUN / "daemons" / f"{name}.json"

    def start(
        self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, ready: Callable[[], bool] = bool
    ) -> None:
        """Start it and wait until ``ready``; unless it says otherwise, a program is ready at once.

        Raises:
            NotStarted: It ended, or was not ready within two minutes.
        """
        for folder in (self.log.parent, self._record.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self._run([str(argument) for argument in arguments], dict(env or {}))
        if ready is not bool:
            self.wait(ready)

    def again(self, ready: Callable[[], bool] = bool) -> None:
        """Start it as it was started before, if it does not run."""
        if self.pid is None:
            known = json.loads(self._record.read_text())
            self._run(known["arguments"], known["env"])
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
        """SIGTERM, and SIGKILL where that does not help."""
        self.signal(signal.SIGTERM)
        if not self._ended():
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        self._ended()

    def signal(self, number: int) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, number)

    @property
    def pid(self) -> int | None:
        """Its process id; None when it does not run."""
        if not self._record.exists():
            return None
        known = json.loads(self._record.read_text())
        return known["pid"] if known["since"] == started_at(known["pid"]) else None

    def _run(self, arguments: list[str], env: dict[str, str]) -> None:
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                arguments,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                # Those in Go clear up their memory less often, which is a tenth of what they do.
                env=os.environ | {"GOGC": "400"} | env,
                # A Ctrl-C in the terminal of the tests is not meant for it.
                start_new_session=True,
            )
        known = {"pid": process.pid, "since": started_at(process.pid), "arguments": arguments, "env": env}
        self._record.write_text(json.dumps(known))

    def _ended(self) -> bool:
        deadline = time.monotonic() + _ENDS_WITHIN_SECONDS
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def processes(*words: str) -> list[int]:
    """The ids of the processes whose command line has all of ``words``."""
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
    """End what this process has started, with what that has started: SIGTERM, and SIGKILL where that does not help."""
    deadline = time.monotonic() + _ENDS_WITHIN_SECONDS
    told: set[int] = set()
    while pids := descendants(os.getpid()):
        late = time.monotonic() > deadline
        for pid in pids - (set() if late else told):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told |= pids
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """The ids of the processes below one that still run."""
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
