"""The context of a stage: its configuration, scratch directory and event reporter.

A stage runs in worker processes. They are children of a host process (`finetune_trainer.host`), which serves /metrics
and /progress, uploads checkpoints and writes the termination message. Workers send events to it as JSON Lines over a
pipe, so that the host can report the result of the stage even if a worker crashes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from finetune_api.events import AliveEvent, Event, ProgressEvent
from finetune_api.stage import StageConfig

EVENTS_FD_VARIABLE = "FINETUNE_EVENTS_FD"


class Reporter:
    """Sends events to the host process; does nothing if the descriptor is None, as in tests."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Reporter:
        descriptor = os.environ.get(EVENTS_FD_VARIABLE)
        return cls(int(descriptor) if descriptor else None)

    def send(self, event: Event) -> None:
        """Send an event; thread-safe."""
        if self._descriptor is None:
            return
        line = event.model_dump_json().encode(errors="replace") + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def progress(self, activity: str, done: int | None = None, total: int | None = None, unit: str = "steps") -> None:
        """Report the current activity, and that ``done`` of ``total`` units are complete."""
        self.send(ProgressEvent(activity=activity, done=done, total=total, unit=unit))


class PartReporter(Reporter):
    """Reports the progress of a part of an activity only as a sign of life: the activity has its own counts.

    Args:
        whole: Reports the activity.
    """

    def __init__(self, whole: Reporter) -> None:
        super().__init__(None)
        self._whole = whole

    def send(self, event: Event) -> None:
        self._whole.send(AliveEvent() if isinstance(event, ProgressEvent) else event)


@dataclass(frozen=True)
class StageContext:
    """The argument of ``run(context)`` of every stage."""

    config: StageConfig
    workspace: Path
    """Scratch directory of this attempt, private to this worker process; it exists."""
    reporter: Reporter
