"""Imports of libraries that are large."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import torch and what lies on it within this: a tenth faster.

    Modules are a million objects of which none is garbage. They are not searched for any while they come in, nor ever
    again, which spares training the long pauses of full collections.

    Every model of transformers also brings in the losses of object detection, and those SciPy where they find it: they
    are told that there is none. Source: transformers/loss/loss_for_object_detection.py.
    """
    gc.disable()
    from transformers import utils

    finds_scipy = utils.is_scipy_available  # type: ignore[attr-defined]
    utils.is_scipy_available = lambda: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        utils.is_scipy_available = finds_scipy  # type: ignore[attr-defined]
        gc.freeze()
        gc.enable()
