"""Makes it hard for a program to reach the state of the runner in its own process.

This is no wall: a program that was written against this runner can still claim success. The walls are in `isolation`.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

_MODULES = ("_ctypes", "_interpreters", "_testcapi", "_testinternalcapi", "_xxsubinterpreters")
"""They reach memory, or interpreters without the hook."""

_EVENTS = (
    "gc.get_objects",
    "gc.get_referents",
    "gc.get_referrers",
    "sys._current_exceptions",
    "sys._current_frames",
    "sys.addaudithook",
    "sys.monitoring.register_callback",
    "sys.setprofile",
    "sys.settrace",
)
"""They reach the runner's frames, or let a program jump over an assert."""


def guard() -> None:
    """Refuse what reaches the runner's frames or memory, and forget the modules that have isolated this process."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("finetune_trainer", "ctypes", "_ctypes")]:
        del sys.modules[name]
    sys.argv[:] = [""]
    sys.orig_argv[:] = [""]
    # The first entry is where these modules come from.
    del sys.path[0]
    # Libraries such as doctest reset tracing that nobody has set.
    sys.settrace = sys.setprofile = _only_none
    sys.addaudithook(_hook())


def _hook() -> Any:
    refuse, modules, events = _refuse, frozenset(_MODULES), frozenset(_EVENTS)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and arguments[0] in modules:
            refuse(f"the module {arguments[0]}")
        if event in events or event.startswith("ctypes."):
            refuse(event)

    return hook


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"{what} is not available to programs in the sandbox")


def _only_none(function: object) -> None:
    if function is not None:
        raise RuntimeError("tracing and profiling are not available to programs in the sandbox")
