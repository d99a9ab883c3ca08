"""The network between the nodes: a bridge, and a veth pair for each node in its own network namespace."""

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
    """Create the bridge with the machine's address, and connect the other nodes to it."""
    if not _exists(_NODE_BRIDGE):
        run("ip", "link", "add", _NODE_BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{MACHINE_ADDRESS}/{NODE_NETWORK_BITS}", "dev", _NODE_BRIDGE)
        run("ip", "link", "set", _NODE_BRIDGE, "up")
    for place in PLACES:
        if place.network_namespace and not Path("/run/netns", place.network_namespace).exists():
            _connect(place, place.network_namespace)
        _forward(place)


def remove() -> None:
    """Remove links, network namespaces and iptables rules."""
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
    """Enable IP forwarding for the traffic of pods."""
    run(*place.enter, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _exists(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _remove_pod_namespaces() -> None:
    """Remove the network namespaces of pods. No other containerd runs on a machine with this cluster."""
    for path in Path("/var/run/netns").glob("cni-*"):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_pod_rules() -> None:
    """Remove masquerading rules that the CNI plugin has left."""
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
    """Remove the rules that kubelets leave in the machine's tables. kube-proxy removes its own."""
    for program in ("iptables", "ip6tables"):
        if shutil.which(program) is None:
            continue
        for table in ("mangle", "nat", "filter"):
            jumps = [("-D", parent, "-j", "KUBE-FIREWALL") for parent in ("INPUT", "OUTPUT")]
            chains = [(do, chain) for chain in _KUBELET_CHAINS for do in ("-F", "-X")]
            for arguments in (*jumps, *chains):
                subprocess.run([program, "-w", "-t", table, *arguments], check=False, capture_output=True)
