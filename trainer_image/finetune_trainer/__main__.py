"""``python -m finetune_trainer``: runs `finetune_trainer.command`, and handles SIGTERM while it is imported."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    """Exit as by the default action, which the kernel does not apply to the first process of a container."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if sys.argv[1:2] and sys.argv[1] in ("inputs", "predict", "examine", "compare", "costs", "suitability"):
        # Not stages: they do their work in this process, which the host of a stage must not do.
        sys.exit(import_module(f"finetune_trainer.{sys.argv[1]}").main(sys.argv[2:]))
    from finetune_trainer.command import main

    sys.exit(main())
