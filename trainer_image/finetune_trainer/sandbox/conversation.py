"""The runner's side of the protocol that `finetune_trainer.sandbox.child.main` describes."""

from __future__ import annotations

import contextlib
import secrets
import socket
from enum import Enum, auto

from finetune_trainer.sandbox.child.main import KEY_LENGTH
from finetune_trainer.sandbox.programs import Program

_MOST_RECEIVED = 4096


class _Waits(Enum):
    """What the runner waits for."""

    FOR_ISOLATION = auto()
    FOR_PROGRAM = auto()
    FOR_KEY = auto()
    FOR_NONCE = auto()


class Conversation:
    """Sends a program and its tests to a process, and learns whether the last test has run. It never blocks."""

    def __init__(self, channel: socket.socket, program: Program) -> None:
        channel.setblocking(False)
        self._channel, self._program = channel, program
        self._key, self._nonce = secrets.token_bytes(KEY_LENGTH), secrets.token_bytes(KEY_LENGTH)
        self._waits = _Waits.FOR_ISOLATION
        self._received, self._to_send = bytearray(), bytearray()
        self.protection = ""
        """What isolates the process, in words; empty before it is isolated."""
        self.passed = False

    @property
    def sends(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._to_send)

    def go_on(self) -> bool:
        """Receive and send what is possible now; returns False when the process does not follow the protocol."""
        with contextlib.suppress(BlockingIOError):
            try:
                part = self._channel.recv(_MOST_RECEIVED)
            except ConnectionError:
                return False
            self._received += part
            if not part or len(self._received) > _MOST_RECEIVED or not self._advance():
                return False
        with contextlib.suppress(BlockingIOError):
            try:
                while self._to_send:
                    del self._to_send[: self._channel.send(self._to_send[: 1 << 16])]
            except ConnectionError:
                return False
        return True

    def _advance(self) -> bool:
        """Answer what the process has sent; returns False if that is wrong."""
        if self._to_send:
            # The process answers only what it has read completely.
            return not self._received
        if self._waits is _Waits.FOR_ISOLATION:
            line, end, rest = self._received.partition(b"\n")
            if end:
                self.protection = line.decode(errors="replace")
                self._received.clear()
                self._waits, self._to_send = _Waits.FOR_PROGRAM, _framed(self._program.code)
            return not rest
        if self._waits is _Waits.FOR_PROGRAM:
            self._waits, self._to_send = _Waits.FOR_KEY, bytearray(self._key) + _framed(self._program.tests)
            return self._take(b"\n")
        if len(self._received) < KEY_LENGTH:
            return True
        if self._waits is _Waits.FOR_KEY:
            self._waits, self._to_send = _Waits.FOR_NONCE, bytearray(self._nonce)
            return self._take(self._key)
        self.passed = self._take(self._nonce)
        return self.passed

    def _take(self, expected: bytes) -> bool:
        """Whether the process has sent ``expected`` and nothing else."""
        right = secrets.compare_digest(self._received, expected)
        self._received.clear()
        return right


def _framed(source: str) -> bytearray:
    encoded = source.encode("utf-8", "surrogatepass")
    return bytearray(len(encoded).to_bytes(4, "big") + encoded)
