"""``python -m finetune_trainer``: what `finetune_trainer.command` says, and a stop is heard before that is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _end(number: int, _frame: FrameType | None) -> None:
    """Die of a signal. The kernel spares the first process of a container what it has no handler for."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    from finetune_trainer.command import main

    sys.exit(main())
