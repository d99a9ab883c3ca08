"""What a stage's work is given: its configuration, scratch space and a way to say how it is going.

The work of a stage runs in worker processes below one host process (`finetune_trainer.host`), which serves /metrics and
/progress, uploads checkpoints and writes the termination message. Workers tell it what happens as JSON lines over a
pipe, so that it stays able to report whatever becomes of them.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def send(self, event: str, **fields: Any) -> None:
        """Send one event; ``fields`` must be JSON."""
        if self._descriptor is None:
            return
        line = (json.dumps({"event": event, **fields}) + "\n").encode()
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def progress(self, activity: str, done: int | None = None, total: int | None = None, unit: str = "steps") -> None:
        """Say what the stage is doing, and how far it is: ``done`` of ``total`` units."""
        self.send("progress", activity=activity, done=done, total=total, unit=unit)

    def evaluation_metric(self, model: str, metric: str, value: float) -> None:
        """Export one evaluation metric; ``model`` is baseline or tuned."""
        self.send("evaluation", model=model, metric=metric, value=value)


@dataclass(frozen=True)
class StageContext:
    """What ``run(context)`` of every stage is given."""

    config: StageConfig
    workspace: Path
    """Scratch directory of this attempt; exists, private to this worker process."""
    reporter: Reporter
