"""Addresses, ports and directories of the test cluster on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MACHINE_ADDRESS = "10.44.0.1"
"""Address of the machine on a separate bridge, for the API server, the DNS server and the S3 server."""
NODE_NETWORK_BITS = 24
SERVICE_NETWORK = "10.46.0.0/24"
API_SERVER = f"https://{MACHINE_ADDRESS}:6443"
REGISTRY = f"{MACHINE_ADDRESS}:5050"
S3_PORT = 9000
PROMETHEUS_PORT = 9090
ETCD_CLIENT_PORT, ETCD_PEER_PORT = 23790, 23800

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "cluster")
"""Results that take long to build and outlive a cluster: images, and the store of buildah."""
RUN = CACHE / "run"
"""All files of the running cluster, removed with it."""
SOCKETS = Path("/run/finetune-cluster")
"""A short path, because the length of a socket's path is limited."""
ROOT = Path(__file__).parents[2]
"""The checkout."""


@dataclass(frozen=True)
class Place:
    """Addresses and directories of one node."""

    name: str
    address: str
    pods: str
    """The network of its pods."""
    network_namespace: str | None = None
    """None: the network namespace of the machine."""

    @property
    def root(self) -> Path:
        """The directory that serves as its disk."""
        return RUN / self.name

    @property
    def sockets(self) -> Path:
        return SOCKETS / self.name

    @property
    def cgroup(self) -> str:
        return f"finetune-{self.name}"

    @property
    def enter(self) -> tuple[str, ...]:
        """The prefix of a command that runs in its network namespace."""
        return ("nsenter", f"--net=/run/netns/{self.network_namespace}") if self.network_namespace else ()


PLACES = (
    Place("node-1", MACHINE_ADDRESS, "10.45.1.0/24"),
    Place("node-2", "10.44.0.2", "10.45.2.0/24", network_namespace="finetune-node-2"),
)
POD_NETWORK = "10.45.0.0/16"


@dataclass(frozen=True)
class Port:
    """A port in the machine's network namespace on which a program of the cluster listens."""

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
    Port("the DNS server", 53),
    Port("the DNS server", 53, udp=True),
    Port("kube-controller-manager", 10257, _LOOPBACK),
    Port("kube-scheduler", 10259, _LOOPBACK),
    Port("the kubelet", 10250),
    Port("the kubelet", 10248, _LOOPBACK),
    Port("kube-proxy", 10256),
    Port("kube-proxy", 10249, _LOOPBACK),
)
"""The ports of node-2 are in its own network namespace."""
PROMETHEUS_PORTS = (Port("Prometheus", PROMETHEUS_PORT),)
