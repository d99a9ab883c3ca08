"""Requests to stop training."""

from __future__ import annotations

import os
import signal
import threading
import time

from finetune_api.events import AliveEvent, FailureEvent
from finetune_api.failures import ExitCode, Reason
from finetune_trainer.context import Reporter

_PATIENCE_SECONDS = 20.0
_REPORT_SECONDS = 1.0
_PATIENCE_STEPS = 5
"""Training counts as hanging if a step takes this many times longer than the longest step so far."""


class StopRequest:
    """A flag that SIGTERM sets and that training checks after each step.

    If another rank disappears, such as with its node, the current step never ends. In that case this process exits
    without a checkpoint instead of using up the termination grace period of its pod.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._requested = threading.Event()
        self._agreed = threading.Event()
        self._alive_at = time.monotonic()
        self._reported_at = float("-inf")
        self._longest_step = 0.0
        self._saving = False

    def listen(self) -> None:
        """Handle SIGTERM from now on."""
        self._alive_at = time.monotonic()
        # Python signal handlers run on the main thread, which may be blocked in a collective. The wakeup descriptor is
        # written immediately.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        threading.Thread(target=self._watch, args=(reading,), name="stop", daemon=True).start()

    @property
    def is_set(self) -> bool:
        """Whether this process has received SIGTERM."""
        return self._requested.is_set()

    def sign_of_life(self) -> None:
        """Report that training makes progress, such as after each step."""
        now = time.monotonic()
        if now >= self._reported_at + _REPORT_SECONDS:
            self._reported_at = now
            self._reporter.send(AliveEvent())
        if not self._saving:
            self._longest_step = max(self._longest_step, now - self._alive_at)
        self._saving = False
        self._alive_at = now

    def saving(self) -> None:
        """Report that a checkpoint is saved next: training does not count as hanging until the next sign of life."""
        self._saving = True

    def agree(self) -> None:
        """Report that the ranks have agreed to stop, so that there is no further step to wait for."""
        self._agreed.set()

    def _watch(self, signals: int) -> None:
        while os.read(signals, 1)[0] != signal.SIGTERM:
            pass
        self._requested.set()
        while not self._agreed.wait(1.0):
            if self.hangs:
                message = (
                    f"stopped on request without a checkpoint: the step did not end within {self._patience:.0f} s, "
                    "probably because another worker has terminated; the job resumes from its newest checkpoint"
                )
                self._reporter.send(FailureEvent(reason=Reason.STOPPED, message=message, hung=True))
                os._exit(ExitCode.STOPPED)

    @property
    def hangs(self) -> bool:
        """Whether the current step takes so long that it will probably never end."""
        return not self._saving and time.monotonic() - self._alive_at > self._patience

    @property
    def _patience(self) -> float:
        return max(_PATIENCE_SECONDS, _PATIENCE_STEPS * self._longest_step)
