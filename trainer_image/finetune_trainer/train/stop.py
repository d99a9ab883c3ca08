"""Training that is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time

from finetune_api.failures import ExitCode, Reason
from finetune_trainer.context import Reporter

_PATIENCE_SECONDS = 20.0
_PATIENCE_GAPS = 5
"""How much longer than ever before a sign of life may be out before the ranks are taken to hang."""


class StopRequest:
    """Set by SIGTERM; asked for at the end of each step.

    Where another rank is gone without a word, as with its node, a step never ends. Then this process ends without a
    checkpoint, rather than waste all the time that its pod is given to stop.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._requested = threading.Event()
        self._agreed = threading.Event()
        self._alive_at = time.monotonic()
        self._longest_gap = 0.0
        self._saving = False

    def listen(self) -> None:
        self._alive_at = time.monotonic()
        # A handler in Python would have to wait for the main thread, which may be in a collective that never ends.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        threading.Thread(target=self._watch, args=(reading,), name="stop", daemon=True).start()

    @property
    def is_set(self) -> bool:
        return self._requested.is_set()

    def sign_of_life(self) -> None:
        now = time.monotonic()
        if not self._saving:
            self._longest_gap = max(self._longest_gap, now - self._alive_at)
        self._saving = False
        self._alive_at = now

    def saving(self) -> None:
        """A checkpoint is written next, which takes what it takes: the next sign of life may be long in coming."""
        self._saving = True

    def agree(self) -> None:
        """Training ends now: there is no step to wait for any more."""
        self._agreed.set()

    def _watch(self, signals: int) -> None:
        while os.read(signals, 1)[0] != signal.SIGTERM:
            pass
        self._requested.set()
        while not self._agreed.wait(1.0):
            if self.hangs:
                message = (
                    f"stopped on request without a checkpoint: the step did not end within {self._patience:.0f} s, as "
                    "when another worker is gone; the job resumes from its newest checkpoint"
                )
                self._reporter.send("failure", reason=Reason.STOPPED, message=message, hung=True)
                os._exit(ExitCode.STOPPED)

    @property
    def hangs(self) -> bool:
        """Whether a sign of life is out for so long that it will hardly come."""
        return not self._saving and time.monotonic() - self._alive_at > self._patience

    @property
    def _patience(self) -> float:
        return max(_PATIENCE_SECONDS, _PATIENCE_GAPS * self._longest_gap)
