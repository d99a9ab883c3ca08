"""Free ports for the programs that tests start."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _SPAN = 16000, 4000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN = range(_FIRST + _WORKER * _SPAN, _FIRST + (_WORKER + 1) * _SPAN)
"""Each test process has its own range, below the ephemeral ports, so that a free port stays free until it is used."""
LOOPBACK = f"127.0.0.{_WORKER + 10}"
"""Each test process has its own address, for the fixed port on which pods serve their progress."""
_begin = os.getpid() * 997 % _SPAN
"""Processes outside a test run have one range: those that start one after another begin far apart."""
_candidates = itertools.cycle([*_OWN[_begin:], *_OWN[:_begin]])


def free_port() -> int:
    """A free port on loopback."""
    for port in itertools.islice(_candidates, _SPAN):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port of {_OWN.start} to {_OWN.stop - 1} is free")
