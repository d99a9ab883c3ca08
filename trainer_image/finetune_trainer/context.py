"""What a stage runs with: its configuration, scratch space and the reporter of its events.

The work of a stage runs in worker processes below one host process (`finetune_trainer.host`), which serves /metrics and
/progress, uploads checkpoints and writes the termination message. Workers send it events as JSON lines over a pipe, so
that it can report the end of the stage even when they crash.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from finetune_api.events import Event, ProgressEvent
from finetune_api.stage import StageConfig

EVENTS_FD_VARIABLE = "FINETUNE_EVENTS_FD"


class Reporter:
    """Sends events to the host; does nothing where there is no host (in a test, or on a rank that stays silent)."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Reporter:
        descriptor = os.environ.get(EVENTS_FD_VARIABLE)
        return cls(int(descriptor) if descriptor else None)

    def send(self, event: Event) -> None:
        """Send one event."""
        if self._descriptor is None:
            return
        line = event.model_dump_json().encode(errors="replace") + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def progress(self, activity: str, done: int | None = None, total: int | None = None, unit: str = "steps") -> None:
        """Report what the stage is doing, and how far it is: ``done`` of ``total`` units."""
        self.send(ProgressEvent(activity=activity, done=done, total=total, unit=unit))


@dataclass(frozen=True)
class StageContext:
    """What ``run(context)`` of every stage is given."""

    config: StageConfig
    workspace: Path
    """Scratch directory of this attempt; exists, private to this worker process."""
    reporter: Reporter
