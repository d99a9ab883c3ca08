"""What must be so before anything is made, without anything but Python: ``python -m tests.cluster.preflight``."""

from __future__ import annotations

import sys

from tests.cluster import machine
from tests.cluster.layout import CACHE, PORTS, PROMETHEUS_PORTS, RUN

_BUILDING_GIB = 34
"""For the first time, with the programs, which are built meanwhile; later ones keep the layers with the gigabytes."""
_RUNNING_GIB = 5


def check(*, prometheus: bool = False) -> None:
    """See that a cluster can be made and run here.

    Raises:
        RuntimeError: It cannot; the message says why in a sentence.
    """
    if reason := machine.obstacle():
        raise RuntimeError(reason)
    if (CACHE / "registry").exists():
        machine.require_space(CACHE, _RUNNING_GIB, "the cluster")
    else:
        machine.require_space(CACHE, _BUILDING_GIB, "building the images")
    if not RUN.exists():  # Else a cluster is up, or its remains are, which go before the next one is made.
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
