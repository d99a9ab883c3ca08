"""Check the requirements of a cluster, with nothing but Python: ``python -m tests.cluster.preflight``."""

from __future__ import annotations

import sys

from tests.cluster import machine
from tests.cluster.layout import CACHE, PORTS, PROMETHEUS_PORTS, RUN

_BUILDING_GIB = 34
"""For the first build, including programs. Later builds reuse the large layers."""
_RUNNING_GIB = 5


def check(*, prometheus: bool = False) -> None:
    """Check that a cluster can be built and run on this machine.

    Raises:
        RuntimeError: A requirement is not met; the message says which, in one sentence.
    """
    if reason := machine.obstacle():
        raise RuntimeError(reason)
    if (CACHE / "registry").exists():
        machine.require_space(CACHE, _RUNNING_GIB, "the cluster")
    else:
        machine.require_space(CACHE, _BUILDING_GIB, "building the images")
    if not RUN.exists():  # Otherwise a cluster, or its remains, exists, and it is removed before the next start.
        machine.require_ports(PORTS)
    if prometheus and not RUN.exists():
        machine.require_ports(PROMETHEUS_PORTS)


def main() -> None:
    try:
        check(prometheus="prometheus" in sys.argv[1:])
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
