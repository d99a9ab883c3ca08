"""A stop on request while an endpoint is asked: the answers under way are paid for, and are waited for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from finetune_api.failures import Reason, StageFailure


class StopRequest:
    """A context manager that handles SIGTERM on the main thread, around the store of the answers and its client.

    Raises on exit:
        StageFailure: Stopped, when SIGTERM has arrived and nothing else was raised.
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether SIGTERM has arrived."""
        self._before: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = signal.SIG_DFL
        self._listener: Callable[[], object] | None = None

    def __enter__(self) -> StopRequest:
        self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if error is None:
            self.check()

    @contextmanager
    def notifying(self, listener: Callable[[], object]) -> Iterator[None]:
        """Context in which ``listener`` is called when SIGTERM arrives, between two instructions of the main thread;
        at once if it has arrived already."""
        self._listener = listener
        try:
            if self.requested:
                listener()
            yield
        finally:
            self._listener = None

    def check(self) -> None:
        """Check that no stop was requested.

        Raises:
            StageFailure: Stopped.
        """
        if self.requested:
            raise StageFailure(
                Reason.STOPPED, "stopped on request; the answers so far are stored, and the job resumes from them"
            )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._listener:
            self._listener()
