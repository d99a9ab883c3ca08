"""The network between the nodes: a bridge, to which a node in a network namespace of its own has a cable."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.cluster.layout import MACHINE_ADDRESS, NODE_NETWORK_BITS, PLACES, Place
from tests.cluster.machine import run

POD_BRIDGE = "finetune-pods"
_NODE_BRIDGE = "finetune-node"
_KUBELET_CHAINS = ("KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")


def make() -> None:
    """The bridge with the machine's own address, which everything of the cluster listens on, and the other nodes'."""
    if not _exists(_NODE_BRIDGE):
        run("ip", "link", "add", _NODE_BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{MACHINE_ADDRESS}/{NODE_NETWORK_BITS}", "dev", _NODE_BRIDGE)
        run("ip", "link", "set", _NODE_BRIDGE, "up")
    for place in PLACES:
        if place.network_namespace and not Path("/run/netns", place.network_namespace).exists():
            _connect(place, place.network_namespace)
        _forward(place)


def remove() -> None:
    """Take links, network namespaces and the rules of pods away."""
    _remove_pod_namespaces()
    for place in PLACES:
        if place.network_namespace and Path("/run/netns", place.network_namespace).exists():
            run("ip", "netns", "delete", place.network_namespace)
    _remove_pod_rules()
    _remove_kubelet_rules()
    for link in (POD_BRIDGE, _NODE_BRIDGE):
        if _exists(link):
            run("ip", "link", "delete", link)


def _connect(place: Place, namespace: str) -> None:
    cable = f"ft-{place.name}"
    run("ip", "netns", "add", namespace)
    run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    run("ip", "link", "set", cable, "master", _NODE_BRIDGE, "up")
    for arguments in (
        ("link", "set", "lo", "up"),
        ("link", "set", "eth0", "up"),
        ("address", "add", f"{place.address}/{NODE_NETWORK_BITS}", "dev", "eth0"),
        ("route", "add", "default", "via", MACHINE_ADDRESS),
    ):
        run("ip", "-netns", namespace, *arguments)
    run("ip", "route", "add", place.pods, "via", place.address)


def _forward(place: Place) -> None:
    """Let packets pass from pods to elsewhere and back."""
    run(*place.enter, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _exists(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _remove_pod_namespaces() -> None:
    """Those that containerd made for pods; no other containerd runs where ours do."""
    for path in Path("/var/run/netns").glob("cni-*"):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_pod_rules() -> None:
    """The masquerading rules of pods that were not taken down by the plugin that made them."""
    if shutil.which("iptables") is None:
        return
    for line in run("iptables", "--table", "nat", "--list-rules").splitlines():
        words = line.split()
        if words[0] == "-A" and "CNI-" in line and words[1] == "POSTROUTING":
            subprocess.run(["iptables", "-t", "nat", "-D", *shlex.split(line)[1:]], check=False, capture_output=True)
    for line in run("iptables", "--table", "nat", "--list-rules").splitlines():
        words = line.split()
        if words[0] == "-N" and words[1].startswith("CNI-"):
            for command in ("-F", "-X"):
                subprocess.run(["iptables", "-t", "nat", command, words[1]], check=False, capture_output=True)


def _remove_kubelet_rules() -> None:
    """What kubelets leave in the machine's own tables; kube-proxy clears up after itself."""
    for program in ("iptables", "ip6tables"):
        if shutil.which(program) is None:
            continue
        for table in ("mangle", "nat", "filter"):
            jumps = [("-D", parent, "-j", "KUBE-FIREWALL") for parent in ("INPUT", "OUTPUT")]
            chains = [(do, chain) for chain in _KUBELET_CHAINS for do in ("-F", "-X")]
            for arguments in (*jumps, *chains):
                subprocess.run([program, "-w", "-t", table, *arguments], check=False, capture_output=True)
