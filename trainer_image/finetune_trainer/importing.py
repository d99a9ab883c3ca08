"""Imports of libraries that are large."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.patches.transformers import without_scipy


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import torch and what lies on it within this: a tenth faster.

    Modules are a million objects of which none is garbage. They are not searched for any while they come in, nor ever
    again, which spares training the long pauses of full collections.
    """
    gc.disable()
    try:
        with without_scipy():
            yield
    finally:
        gc.freeze()
        gc.enable()
