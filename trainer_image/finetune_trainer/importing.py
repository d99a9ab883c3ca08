"""Faster imports of torch and transformers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.patches.peft import without_bitsandbytes
from finetune_trainer.patches.transformers import without_scipy


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Context in which to import torch and libraries that depend on it; saves a tenth of the import time.

    Imported modules consist of a million objects that never become garbage. The garbage collector is disabled during
    the imports and then ignores these objects, which also avoids long pauses during training.
    """
    without_bitsandbytes()
    gc.disable()
    try:
        with without_scipy():
            yield
    finally:
        gc.freeze()
        gc.enable()
