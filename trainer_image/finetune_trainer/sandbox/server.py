"""``python -m finetune_trainer.sandbox.server SOCKET FOLDER``: runs programs in a container of their own.

It serves one stage at a time, which finds the socket when this is ready. Programs get their folders in FOLDER.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.failures import StageFailure
from finetune_trainer.sandbox import scratch
from finetune_trainer.sandbox.local import LocalSandbox
from finetune_trainer.sandbox.messages import Line, Lost
from finetune_trainer.sandbox.programs import Outcome, Program

_LIFE_SECONDS = 1.0
_MOST_WAITING = 16
"""Programs that run or wait. More are not read from the socket."""
_PR_SET_DUMPABLE = 4


def main(arguments: list[str]) -> NoReturn:
    """Serve until SIGTERM."""
    path, folder = (Path(argument) for argument in arguments)
    # As the first process of a container, it gets SIGTERM only with a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Programs run as the same user: they must not trace this process or read its memory.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for left in folder.iterdir():
        # An abrupt end left it.
        if left.is_dir() and not left.is_symlink():
            scratch.remove(left)
    with listening(path) as listener:
        while True:
            connection, _ = listener.accept()
            serve(connection, folder)


def listening(path: Path) -> socket.socket:
    """A socket that listens at ``path`` when ``path`` exists."""
    listener = socket.socket(socket.AF_UNIX)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    listener.bind(str(new))
    # The stage runs as another user.
    new.chmod(0o666)
    listener.listen()
    new.rename(path)
    return listener


def serve(connection: socket.socket, folder: Path) -> None:
    """Run the programs of one stage until it closes the connection."""
    line = Line(connection)
    try:
        with LocalSandbox(folder) as sandbox:
            _Service(line, sandbox).run()
    except StageFailure as failure:
        _send(line, {"refused": failure.message})
    finally:
        line.close()


class _Service:
    def __init__(self, line: Line, sandbox: LocalSandbox) -> None:
        self._line, self._sandbox = line, sandbox
        self._room = threading.Semaphore(_MOST_WAITING)
        self._sending = threading.Lock()
        self._done = threading.Event()

    def run(self) -> None:
        self._send({"details": dict(self._sandbox.details)})
        signs = threading.Thread(target=self._show_life)
        signs.start()
        try:
            while True:
                self._room.acquire()
                self._accept(self._line.receive())
        except Lost:
            return
        finally:
            self._done.set()
            signs.join()

    def _accept(self, message: dict[str, Any]) -> None:
        number, code, tests = (message.get(name) for name in ("number", "code", "tests"))
        if not isinstance(number, int) or not isinstance(code, str) or not isinstance(tests, str):
            raise Lost("a message is not a program")

        def answer(future: Future[Outcome]) -> None:
            self._room.release()
            if not future.cancelled() and future.exception() is None:
                outcome = future.result()
                self._send({"number": number, "ending": outcome.ending, "detail": outcome.detail})

        self._sandbox.submit(Program(code, tests)).add_done_callback(answer)

    def _show_life(self) -> None:
        while not self._done.wait(_LIFE_SECONDS):
            self._send({})

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            _send(self._line, message)


def _send(line: Line, message: dict[str, Any]) -> None:
    """Send a message to a stage, which may have ended: then receiving ends, too."""
    try:
        line.send(message)
    except Lost:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
