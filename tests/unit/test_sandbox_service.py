"""Programs that run in the container beside a stage: its server and client, as real processes and sockets."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.sandbox import limits
from finetune_trainer.sandbox.client import RemoteSandbox
from finetune_trainer.sandbox.messages import Line
from finetune_trainer.sandbox.programs import Ending, Outcome, Program
from finetune_trainer.sandbox.server import listening
from tests.unit.hostile_programs import until

PASSES, FAILS = Program("x = 1\n", "assert x == 1\n"), Program("x = 1\n", "assert x == 2\n")


def ignore(count: int) -> None:
    """Not interested in progress."""


class Container:
    """The server as a process, which can be killed and starts again as Kubernetes starts it."""

    def __init__(self, directory: Path) -> None:
        self.socket, self.folders = directory / "socket", directory / "programs"
        self.folders.mkdir()
        self._process = self._start()
        until(self.socket.exists)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "finetune_trainer.sandbox.server", str(self.socket), str(self.folders)]
        return subprocess.Popen(command)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self._process = self._start()

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(30)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: the user nobody must reach it, and the path of a socket is short.
    with tempfile.TemporaryDirectory() as found:
        os.chmod(found, 0o755)
        yield Path(found)


@pytest.fixture
def container(directory: Path) -> Iterator[Container]:
    found = Container(directory)
    yield found
    found.kill()


def test_outcomes_are_in_the_order_of_the_programs(container: Container) -> None:
    counts: list[int] = []
    with RemoteSandbox(str(container.socket)) as sandbox:
        assert sandbox.details["isolation"].startswith("seccomp")
        outcomes = sandbox.run([PASSES, FAILS] * 6 + [Program("x" * (limits.SOURCE + 1), "")], counts.append)
        assert [outcome.passed for outcome in outcomes] == [True, False] * 6 + [False]
        assert outcomes[1].detail == "AssertionError in line 1 of the tests (assert x == 2)"
        assert sum(counts) == 13
        assert sandbox.run([], ignore) == []
    with RemoteSandbox(str(container.socket)) as sandbox:
        assert sandbox.run([PASSES], ignore) == [Outcome(Ending.PASSED)], "another connection, as of another attempt"


def test_a_socket_is_there_when_it_listens_and_other_users_may_connect(directory: Path) -> None:
    (directory / "socket").touch()  # That of an earlier start.
    with listening(directory / "socket"):
        assert stat.S_IMODE((directory / "socket").stat().st_mode) == 0o666
        assert os.listdir(directory) == ["socket"]


def test_a_stop_does_not_wait_for_programs(container: Container) -> None:
    with RemoteSandbox(str(container.socket), restart_seconds=0) as sandbox:
        started = on_file(container, container.stop)
        with pytest.raises(StageFailure) as failure:
            sandbox.run([Program("open('started', 'w').close()\nimport time\ntime.sleep(9)\n", "")], ignore)
        started.join()
    assert failure.value.reason is Reason.UNAVAILABLE
    assert "does not answer at" in failure.value.message


def on_file(container: Container, act: Callable[[], object]) -> threading.Thread:
    """Act when the program has started."""

    def wait() -> None:
        until(lambda: list(container.folders.glob("*/*/started")))
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


class TestRestart:
    def test_runs_the_programs_again(self, container: Container) -> None:
        slow = Program("open('started', 'w').close()\nimport time\ntime.sleep(0.5)\n", "")
        with RemoteSandbox(str(container.socket)) as sandbox:
            killed = on_file(container, container.restart)
            outcomes = sandbox.run([PASSES, slow, FAILS, PASSES], ignore)
            killed.join()
        assert [outcome.ending for outcome in outcomes] == [
            Ending.PASSED,
            Ending.PASSED,
            Ending.FAILED,
            Ending.PASSED,
        ]
        until(lambda: not os.listdir(container.folders))  # Also of what the first start has left.

    def test_the_program_that_ends_the_container_twice_has_no_memory(self, directory: Path) -> None:
        """The server here is the test's own: it hangs up when it gets the program ``fatal``."""
        served: list[str] = []
        with listening(directory / "socket") as listener:
            thread = threading.Thread(target=serve, args=(listener, served), daemon=True)
            thread.start()
            with RemoteSandbox(str(directory / "socket")) as sandbox:
                programs = [Program("a", ""), Program("fatal", ""), Program("b", "")]
                outcomes = sandbox.run(programs, ignore)
        assert [outcome.ending for outcome in outcomes] == [Ending.PASSED, Ending.MEMORY, Ending.PASSED]
        assert served.count("fatal") == 2


def serve(listener: socket.socket, served: list[str]) -> None:
    while True:
        try:
            line = Line(listener.accept()[0])
        except OSError:  # The test has ended.
            return
        line.send({"details": {}})
        with suppress(Exception):
            while True:
                message = line.receive()
                served.append(message["code"])
                if message["code"] == "fatal":
                    break
                line.send({"number": message["number"], "ending": "Passed", "detail": ""})
        line.close()


class TestForeignMessages:
    @pytest.mark.parametrize(
        "message",
        [
            {"number": 5, "ending": "Passed", "detail": ""},
            {"number": 0, "ending": "Great", "detail": ""},
            {"number": 0, "ending": "Passed"},
            {"number": [], "ending": "Passed", "detail": ""},
            ["Passed"],
        ],
    )
    def test_are_no_outcome(self, directory: Path, message: Any) -> None:
        with listening(directory / "socket") as listener:

            def answer() -> None:
                line = Line(listener.accept()[0])
                line.send({"details": {}})
                line.receive()
                line._connection.sendall(json.dumps(message).encode() + b"\n")
                listener.close()
                (directory / "socket").unlink(missing_ok=True)
                line.close()

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            with (
                RemoteSandbox(str(directory / "socket"), restart_seconds=0) as sandbox,
                pytest.raises(StageFailure, match="does not answer"),
            ):
                sandbox.run([PASSES], ignore)

    def test_of_a_stage_end_its_connection_only(self, container: Container) -> None:
        with RemoteSandbox(str(container.socket)):
            pass
        for bad in (b"{}\n", b"nonsense\n", b'{"number": "x", "code": 1, "tests": 2}\n', b"[[[["):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(container.socket))
                connection.sendall(bad)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        with RemoteSandbox(str(container.socket)) as sandbox:
            assert sandbox.run([PASSES], ignore) == [Outcome(Ending.PASSED)]

    def test_a_refusal_is_that_of_the_machine(self, directory: Path) -> None:
        with listening(directory / "socket") as listener:

            def refuse() -> None:
                line = Line(listener.accept()[0])
                line.send({"refused": "this machine cannot isolate programs: no seccomp"})
                line.close()

            thread = threading.Thread(target=refuse, daemon=True)
            thread.start()
            with pytest.raises(StageFailure, match="no seccomp") as failure, RemoteSandbox(str(directory / "socket")):
                pass
        assert failure.value.reason is Reason.BAD_CONFIGURATION
