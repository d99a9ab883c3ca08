"""Ports for what tests start."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _SPAN = 16000, 4000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN = range(_FIRST + _WORKER * _SPAN, _FIRST + (_WORKER + 1) * _SPAN)
"""Each process of tests has a range of its own, below those that the system gives to connections: what is free now is
then still free when a program opens it."""
LOOPBACK = f"127.0.0.{_WORKER + 10}"
"""Each process of tests has an address of its own, for a port that cannot be chosen: that of a pod's progress."""
_begin = os.getpid() % _SPAN
_candidates = itertools.cycle([*_OWN[_begin:], *_OWN[:_begin]])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    for port in itertools.islice(_candidates, _SPAN):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port of {_OWN.start} to {_OWN.stop - 1} is free")
