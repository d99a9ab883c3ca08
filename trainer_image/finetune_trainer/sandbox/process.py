"""Runs one program in a process of its own, and watches it from outside."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from finetune_trainer.sandbox import limits, scratch
from finetune_trainer.sandbox.conversation import Conversation
from finetune_trainer.sandbox.failures import end_of_process, failure, why_refused
from finetune_trainer.sandbox.programs import TOO_LONG, Ending, Outcome, Program

_TICK_SECONDS = 0.05
_MOST_FAILURE = 16 << 10

_SOURCES = Path(__file__).parents[2]
_CODE = (
    f"import sys; sys.path.insert(0, {str(_SOURCES)!r}); from finetune_trainer.sandbox.child.main import main; main()"
)


class Refused(Exception):
    """The process could not isolate itself; the message says why."""


def run_program(program: Program, folder: Path) -> tuple[Outcome, str]:
    """Run ``program`` with ``folder``, which is empty, as the only place to write.

    Returns:
        How it ended, and in words what has isolated it.

    Raises:
        Refused: See its message; the program did not run.
    """
    if max(len(program.code), len(program.tests)) > limits.SOURCE:
        return TOO_LONG, ""
    with _Process(program, folder) as process:
        return process.outcome(), process.protection


class _Process:
    """One process, from its start to its end."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._output = 0
        self._failure = bytearray()

    @property
    def protection(self) -> str:
        return self._conversation.protection

    def __enter__(self) -> _Process:
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as ends:
            channel, channel_end = socket.socketpair()
            on_error.callback(channel.close)
            ends.callback(channel_end.close)
            self._failures, failures_end = _pipe(on_error, ends)
            self._outputs, outputs_end = _pipe(on_error, ends)
            passed = (channel_end.fileno(), failures_end)
            self._deadline = time.monotonic() + limits.WALL_SECONDS
            self._process = subprocess.Popen(
                [*_PYTHON, "-c", _CODE, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=outputs_end,
                stderr=outputs_end,
                pass_fds=passed,
                cwd=self._folder,
                env=_environment(self._folder),
                start_new_session=True,
            )
            self._channel = channel.fileno()
            self._conversation = Conversation(channel, self._program)
            self._closing = on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._closing.close()

    def outcome(self) -> Outcome:
        """Watch the process until it ends or exceeds a limit.

        Raises:
            Refused: See its message.
        """
        poller, watched = select.poll(), {self._channel, self._failures, self._outputs}
        ended, next_look = False, 0.0
        while True:
            for descriptor in watched:
                sends = descriptor == self._channel and self._conversation.sends
                poller.register(descriptor, select.POLLIN | (select.POLLOUT if sends else 0))
            ready = [descriptor for descriptor, _ in poller.poll(0 if ended else _TICK_SECONDS * 1000)]
            for descriptor in ready:
                if not self._transfer(descriptor):
                    poller.unregister(descriptor)
                    watched.discard(descriptor)
            if self._conversation.passed:
                return Outcome(Ending.PASSED)
            if ended and not ready:
                return self._end()
            if (now := time.monotonic()) >= next_look and not ended:
                next_look = now + _TICK_SECONDS
                if outcome := self._exceeded(now):
                    return outcome
            if self._output > limits.OUTPUT:
                return Outcome(Ending.OUTPUT, f"the program printed more than {limits.OUTPUT >> 20} MiB")
            # What the process has sent before its end is read in the next round.
            ended = ended or self._has_ended()

    def _exceeded(self, now: float) -> Outcome | None:
        """The outcome of a program that has just exceeded a limit of the runner."""
        if now >= self._deadline:
            return Outcome(Ending.TIME, f"the program ran longer than {limits.WALL_SECONDS} s")
        if excess := scratch.exceeded(self._folder):
            return Outcome(Ending.FILES, f"the program wrote more than {excess}")
        if _threads(self._process.pid) > limits.THREADS:
            return Outcome(Ending.PROCESSES, f"the program started more than {limits.THREADS} threads")
        return None

    def _has_ended(self) -> bool:
        """Whether the process has ended; it is not reaped yet, so that its usage stays readable."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _transfer(self, descriptor: int) -> bool:
        """Read from, or write to, a descriptor; returns whether there may be more."""
        if descriptor == self._channel:
            return self._conversation.go_on()
        part = os.read(descriptor, 1 << 16)
        if descriptor == self._outputs:
            self._output += len(part)
        else:
            self._failure += part
        return bool(part) and len(self._failure) <= _MOST_FAILURE

    def _end(self) -> Outcome:
        """The outcome of a process that has ended by itself."""
        if not self.protection:
            raise Refused(why_refused(bytes(self._failure)))
        if self._failure:
            return failure(bytes(self._failure), self._program)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return end_of_process(self._process.returncode, usage.ru_utime + usage.ru_stime)


def _pipe(read_end: contextlib.ExitStack, write_end: contextlib.ExitStack) -> tuple[int, int]:
    reads, writes = os.pipe()
    read_end.callback(os.close, reads)
    write_end.callback(os.close, writes)
    return reads, writes


def _threads(pid: int) -> int:
    """The number of threads of a process; see proc_pid_stat(5)."""
    try:
        # The name of the process may contain blanks and brackets.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[17])
    except OSError:
        return 0


# Not the Python of a virtual environment, whose prefix leads to installed packages. -I would ignore PYTHONHASHSEED too.
_PYTHON = (getattr(sys, "_base_executable", None) or sys.executable, "-P", "-s", "-S", "-B")


def _environment(folder: Path) -> dict[str, str]:
    # The order of a set depends on the seed of hashes, and with it whether a program passes.
    return {"TMPDIR": str(folder), "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
