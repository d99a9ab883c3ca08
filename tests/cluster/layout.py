"""Where the cluster of the tests lives on this machine: its addresses and its directories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MACHINE_ADDRESS = "10.44.0.1"
"""Address of the machine on a bridge of its own: of the API server, the name server and the S3 server."""
NODE_NETWORK_BITS = 24
SERVICE_NETWORK = "10.46.0.0/24"
API_SERVER = f"https://{MACHINE_ADDRESS}:6443"
REGISTRY = f"{MACHINE_ADDRESS}:5050"
S3_PORT = 9000
PROMETHEUS_PORT = 9090
ETCD_CLIENT_PORT, ETCD_PEER_PORT = 23790, 23800

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "cluster")
"""What is slow to make and outlives a cluster: images, and the store of the tool that builds them."""
RUN = CACHE / "run"
"""Everything of the running cluster; it goes with it."""
SOCKETS = Path("/run/finetune-cluster")
"""Short enough for a socket's path."""
ROOT = Path(__file__).parents[2]
"""The checkout."""


@dataclass(frozen=True)
class Place:
    """Where one node lives."""

    name: str
    address: str
    pods: str
    """Network of its pods."""
    network_namespace: str | None = None
    """None for the machine's own."""

    @property
    def root(self) -> Path:
        """Its disk."""
        return RUN / self.name

    @property
    def sockets(self) -> Path:
        return SOCKETS / self.name

    @property
    def cgroup(self) -> str:
        return f"finetune-{self.name}"

    @property
    def enter(self) -> tuple[str, ...]:
        """What goes before a command that shall run on its network."""
        return ("nsenter", f"--net=/run/netns/{self.network_namespace}") if self.network_namespace else ()


PLACES = (
    Place("node-1", MACHINE_ADDRESS, "10.45.1.0/24"),
    Place("node-2", "10.44.0.2", "10.45.2.0/24", network_namespace="finetune-node-2"),
)
POD_NETWORK = "10.45.0.0/16"


@dataclass(frozen=True)
class Port:
    """A port on the machine's own network that a program of the cluster listens on."""

    owner: str
    number: int
    address: str = MACHINE_ADDRESS
    udp: bool = False


_LOOPBACK = "127.0.0.1"
PORTS = (
    Port("etcd", ETCD_CLIENT_PORT, _LOOPBACK),
    Port("etcd", ETCD_PEER_PORT, _LOOPBACK),
    Port("the API server", 6443),
    Port("the registry", 5050),
    Port("the S3 server", S3_PORT),
    Port("the name server", 53),
    Port("the name server", 53, udp=True),
    Port("kube-controller-manager", 10257, _LOOPBACK),
    Port("kube-scheduler", 10259, _LOOPBACK),
    Port("the kubelet", 10250),
    Port("the kubelet", 10248, _LOOPBACK),
    Port("kube-proxy", 10256),
    Port("kube-proxy", 10249, _LOOPBACK),
)
"""Those of node-2 are in a network namespace of its own."""
PROMETHEUS_PORTS = (Port("Prometheus", PROMETHEUS_PORT),)
