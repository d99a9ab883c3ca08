"""Runs programs in the container beside that of the stage; see `finetune_trainer.sandbox.messages`."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.text import clean
from finetune_trainer.sandbox import limits
from finetune_trainer.sandbox.messages import Line, Lost
from finetune_trainer.sandbox.programs import TOO_LONG, Ending, OnPrograms, Outcome, Program

_AT_ONCE = 2 * limits.AT_ONCE
"""Programs that are sent before their outcomes have come."""
_SILENCE_SECONDS = 60.0
_RESTART_SECONDS = 600.0
"""Time for the container to start again: Kubernetes waits up to five minutes between two starts."""
_RETRY_SECONDS = 1.0


class RemoteSandbox:
    """Runs programs in the container that listens at the Unix socket ``path``; a context manager."""

    def __init__(self, path: str, restart_seconds: float = _RESTART_SECONDS) -> None:
        self._path, self._restart_seconds = path, restart_seconds
        self._line: Line | None = None
        self._details: dict[str, str] = {}
        self._on_programs: OnPrograms = lambda _: None
        self._outcomes: dict[int, Outcome] = {}
        self._in_flight: dict[int, Program] = {}

    @property
    def details(self) -> Mapping[str, str]:
        return self._details

    def __enter__(self) -> RemoteSandbox:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def run(self, programs: Sequence[Program], on_programs: OnPrograms) -> list[Outcome]:
        """See `finetune_trainer.sandbox.programs.Sandbox`.

        The container may run out of memory and start again. Then the programs that it ran run again, one by one, and
        one that ends it again has the ending Memory.
        """
        self._on_programs, self._outcomes = on_programs, {}
        waiting = deque(enumerate(programs))
        while len(self._outcomes) < len(programs):
            try:
                self._exchange(waiting, _AT_ONCE)
            except Lost:
                self._run_alone(self._reconnected())
        return [self._outcomes[number] for number in range(len(programs))]

    def _run_alone(self, suspects: Iterable[tuple[int, Program]]) -> None:
        for suspect in suspects:
            try:
                self._exchange(deque([suspect]), 1)
            except Lost:
                self._reconnected()
                self._end(suspect[0], Outcome(Ending.MEMORY, "the program ended the container in which it ran, twice"))

    def _exchange(self, waiting: deque[tuple[int, Program]], at_once: int) -> None:
        """Run the programs in ``waiting``, ``at_once`` of them at the same time.

        Raises:
            Lost: The connection has ended; the programs that had been sent are in flight.
        """
        while waiting or self._in_flight:
            while waiting and len(self._in_flight) < at_once:
                self._send(*waiting.popleft())
            message = self._received()
            if not message:
                self._on_programs(0)
                continue
            number, ending, detail = (message.get(name) for name in ("number", "ending", "detail"))
            if not isinstance(number, int) or not isinstance(ending, str) or not isinstance(detail, str):
                raise Lost("a message is not an outcome")
            if number not in self._in_flight or ending not in set(Ending):
                raise Lost("a message is not an outcome")
            del self._in_flight[number]
            self._end(number, Outcome(Ending(ending), clean(detail)[: limits.DETAIL]))

    def _send(self, number: int, program: Program) -> None:
        if max(len(program.code), len(program.tests)) > limits.SOURCE:
            return self._end(number, TOO_LONG)
        self._in_flight[number] = program
        assert self._line
        self._line.send({"number": number, "code": program.code, "tests": program.tests})
        return None

    def _end(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self._on_programs(1)

    def _received(self) -> dict[str, Any]:
        assert self._line
        return self._line.receive()

    def _reconnected(self) -> list[tuple[int, Program]]:
        """Connect again; returns the programs that were in flight."""
        lost = list(self._in_flight.items())
        self._in_flight.clear()
        self._hang_up()
        self._connect()
        return lost

    def _connect(self) -> None:
        """Connect to the container, which may be starting.

        Raises:
            StageFailure: Unavailable when it does not start; BadConfiguration when it cannot isolate programs.
        """
        deadline = time.monotonic() + self._restart_seconds
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(_SILENCE_SECONDS)
            try:
                connection.connect(self._path)
                self._line = Line(connection)
                return self._greet(self._received())
            except (OSError, Lost) as error:
                connection.close()
                if time.monotonic() >= deadline:
                    raise StageFailure(
                        Reason.UNAVAILABLE,
                        f"the container that runs generated programs does not answer at {self._path}: {error}; see its "
                        "log and state in the pod of the stage",
                    ) from error
            self._on_programs(0)
            time.sleep(_RETRY_SECONDS)

    def _greet(self, greeting: dict[str, Any]) -> None:
        if isinstance(refused := greeting.get("refused"), str):
            raise StageFailure(Reason.BAD_CONFIGURATION, clean(refused)[:1000])
        details = greeting.get("details")
        if not isinstance(details, dict):
            raise Lost("the greeting has no details")
        self._details = {clean(str(name))[:100]: clean(str(value))[:200] for name, value in details.items()}

    def _hang_up(self) -> None:
        if self._line:
            self._line.close()
            self._line = None
