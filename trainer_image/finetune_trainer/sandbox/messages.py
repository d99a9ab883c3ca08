"""The messages between a stage and the container that runs programs: JSON Lines over a Unix socket.

The container sends a greeting: what isolates programs, or why it cannot. The stage sends programs, each with a number.
The container sends an outcome with the number of its program, and an empty message as a sign of life.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from finetune_trainer.sandbox import limits

LONGEST = 13 * limits.SOURCE
"""Bytes of a message: a program and its tests, in which JSON may write a character in six bytes."""


class Lost(Exception):
    """The connection has ended, or the other side does not keep to the protocol."""


class Line:
    """One end of a connection. Threads may send; one may receive."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            Lost: The other side is gone.
        """
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Lost(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            Lost: The connection has ended, nothing came in time, or the message is not valid.
        """
        try:
            line = self._file.readline(LONGEST)
            if not line.endswith(b"\n"):
                raise Lost("the connection has ended")
            message = json.loads(line)
        except (OSError, ValueError, RecursionError) as error:
            raise Lost(str(error)) from error
        if not isinstance(message, dict):
            raise Lost("a message is not an object")
        return message

    def close(self) -> None:
        self._file.close()
        self._connection.close()
