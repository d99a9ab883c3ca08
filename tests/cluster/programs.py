"""The programs of the cluster, all of them at hand: ``python -m tests.cluster.programs`` builds what is missing."""

from __future__ import annotations

from tests.kube_tools import coredns, etcd, kubernetes
from tests.tools import go_tool

KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)


def build() -> None:
    """Build what the cache does not have yet: cold, on two cores, about ten minutes."""
    go_tool("crane")  # The images wait for it.
    etcd()
    for name in KUBERNETES:
        kubernetes(name)
    coredns()
    for name in ("helm", "versitygw", "prometheus"):
        go_tool(name)


if __name__ == "__main__":
    build()
