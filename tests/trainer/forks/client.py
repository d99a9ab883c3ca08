"""Client of the fork server."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.trainer.forks.environment import importing_environment

_ROOT = Path(__file__).parents[3]
_environment: dict[str, str] = {}


def import_under(environment: Mapping[str, str]) -> None:
    """Start the server later in this environment, whatever the test that needs it first has changed."""
    _environment.update(environment)


class ForkedProcess:
    """A forked host process, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, replies: IO[bytes], server: ForkServer) -> None:
        self._replies = replies
        self._server = server
        self.returncode: int | None = None
        self.pid = self._read()

    def _read(self) -> int:
        line = self._replies.readline()
        assert line, f"the fork server has ended:\n{self._server.log()}"
        return int(line)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: The process does not exit within ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._replies], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked stage", timeout or 0)
            self.returncode = self._read()
            self._replies.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts `tests.trainer.forks.server` and sends requests to it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.trainer.forks.server", str(theirs.fileno())],
                cwd=_ROOT,
                env=importing_environment(_environment or os.environ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: int) -> ForkedProcess:
        """Start ``python -m finetune_trainer`` with arguments; its output goes to the descriptor ``output``."""
        request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(Path.cwd())}
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [output, writing])
        finally:
            os.close(writing)
        return ForkedProcess(os.fdopen(reading, "rb", buffering=0), self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """The output of the server process."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        self._requests.close()
        self._process.wait()
        self._log.close()


@functools.cache
def fork_server() -> ForkServer:
    """The server of this test process, started on first use; it exits even if the test process is killed."""
    return ForkServer()


def close_fork_server() -> None:
    """Stop the server, if it runs, and wait for it."""
    if fork_server.cache_info().currsize:
        fork_server().close()
        fork_server.cache_clear()
