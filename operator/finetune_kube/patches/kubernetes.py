"""Changes to the ``kubernetes`` package."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

VERSION = "37.0.1"
"""The version that the changes were checked with."""


def without_synchronous_client() -> None:
    """Keep this process from importing the synchronous client: a tenth of the operator's memory.

    The package imports it in its ``__init__``, and Kopf where it is installed, to recognise its model classes in
    handlers. The operator uses `kubernetes.aio` only. Call this before anything imports Kopf or ``kubernetes``.
    """
    spec = find_spec("kubernetes")
    assert spec
    sys.modules["kubernetes"] = module_from_spec(spec)
    sys.modules["kubernetes.client"] = None  # type: ignore[assignment]
