"""Runs the processes of a stage as forks, with the entry points and the process tree of the product.

A host starts threads and cannot fork safely after that. Therefore a forked host first forks its ranks, which wait until
the host starts them. They then receive environment, descriptors and session as from a real start.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from tests.trainer.forks.environment import different

LATE_IMPORT = "late import | "
"""Prefix of log lines of a forked rank that name a module imported after the fork."""
MESSAGE_BYTES = 1 << 20
_RANK = "finetune_trainer.worker"
_MOST_DESCRIPTORS = 16
_PR_SET_PDEATHSIG = 1
_FIRST_SPARE = 512
"""Lowest descriptor that neither server nor product uses."""
_STANDARD = 3


def become_host(message: dict[str, Any], output: int, server: int, imported_under: Mapping[str, str]) -> NoReturn:
    """Run the host of the product in this forked process.

    Args:
        message: ``arguments``, ``environment`` and ``cwd``.
        output: Descriptor for standard output and error.
        server: Process id of the parent; the kernel kills the host when it exits.
        imported_under: The environment in which the libraries were imported.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.closerange(_STANDARD, _FIRST_SPARE)
    os.chdir(message["cwd"])
    _set_environment(message["environment"])
    ranks: list[ForkedRank] = []
    for _ in range(_processes(message["arguments"])):
        ranks.append(ForkedRank(ranks))
    _replace_popen(ranks, imported_under)
    _run("finetune_trainer", message["arguments"])


def _processes(arguments: list[str]) -> int:
    """Number of ranks that the host will start; 0 for an invalid configuration, which the product reports."""
    try:
        config = json.loads(Path(arguments[arguments.index("--config") + 1]).read_bytes())
        return int(config["world"]["processesPerWorker"]) if config["stage"] == "train" else 1
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _replace_popen(ranks: list[ForkedRank], imported_under: Mapping[str, str]) -> None:
    """Make the product start the waiting ranks; a rank with other imports is started as a new process."""
    from finetune_trainer.host import processes

    def start(command: list[str], *, env: dict[str, str], pass_fds: tuple[int, ...], **options: Any) -> Any:
        known = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        assert (command[:3], options) == ([sys.executable, "-m", _RANK], known), "the product starts ranks differently"
        if names := different(env, imported_under):
            sys.stderr.write(f"a rank is not forked, because of {', '.join(names)}\n")
            return subprocess.Popen(command, env=env, pass_fds=pass_fds, **options)
        rank = ranks.pop(0)
        rank.start(command[3:], env, pass_fds)
        return rank

    processes.subprocess = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]


class ForkedRank:
    """A child process that becomes a rank, with the interface of `subprocess.Popen` that the product uses."""

    def __init__(self, siblings: list[ForkedRank]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.RLock()  # A signal handler of the host may call poll() during a poll().
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for other in (self, *siblings):
                other._requests.close()
            _become_rank(theirs)
        theirs.close()

    def start(self, arguments: list[str], environment: Mapping[str, str], descriptors: tuple[int, ...]) -> None:
        """Start the worker of the product; as with Popen, its session exists on return."""
        message = {"arguments": arguments, "environment": dict(environment), "descriptors": descriptors}
        socket.send_fds(self._requests, [json.dumps(message).encode()], descriptors)
        assert self._requests.recv(1), "the process that was to become a rank has ended"
        self._requests.close()

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        with self._lock:
            if self.returncode is None:
                with contextlib.suppress(ChildProcessError):  # The signal handler has already reaped the child.
                    pid, status = os.waitpid(self.pid, options)
                    if pid:
                        self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _become_rank(requests: socket.socket) -> NoReturn:
    """Wait for the message of `ForkedRank.start`, and run the worker of the product."""
    raw, received, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, _MOST_DESCRIPTORS)
    if not raw:
        os._exit(0)  # The host has exited without starting this rank.
    message = json.loads(raw)
    os.setsid()
    requests.send(b"1")
    requests.detach()
    spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_SPARE) for descriptor in received]
    os.closerange(_STANDARD, _FIRST_SPARE)
    for descriptor, wanted in zip(spare, message["descriptors"], strict=True):
        os.dup2(descriptor, wanted)
        os.close(descriptor)
    _set_environment(message["environment"])
    del sys.modules[_RANK]  # It becomes the main module, which must not be imported before.
    sys.addaudithook(_log_import)
    _run(_RANK, message["arguments"])


def _log_import(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "import":
        os.write(2, f"{LATE_IMPORT}{arguments[0]}\n".encode())


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _run(module: str, arguments: list[str]) -> NoReturn:
    """Run a module as ``python -m`` does, and exit."""
    if measuring := sys.modules.get("measuring"):
        measuring.switch_context(os.environ.get("PYTEST_CURRENT_TEST", ""))
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Skip the shutdown of the interpreter, which is slow with so many modules.
