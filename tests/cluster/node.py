"""The node: a network, containerd, the kubelet and kube-proxy; and how all of it is taken away again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.apiserver.api import Refused
from tests.cluster import containers, control
from tests.cluster.daemons import Daemon, processes
from tests.cluster.images import PAUSE
from tests.cluster.layout import NODE, NODE_ADDRESS, POD_NETWORK, RUN, SOCKETS
from tests.cluster.machine import run
from tests.kube_tools import kubernetes

CONTAINERD, KUBELET, PROXY = Daemon("containerd"), Daemon("kubelet"), Daemon("kube-proxy")
GPUS = 4
"""GPUs that the node says it has."""
_NODE_BRIDGE, _POD_BRIDGE = "finetune-node", "finetune-pods"
_CNI = RUN / "cni"
_KUBELET_ROOT = RUN / "kubelet"
_CGROUP = "kubepods"


def start() -> None:
    """Start the node and wait until it is ready for pods."""
    make_network()
    _write_cni()
    containers.copy_for_the_node()
    containers.start(CONTAINERD, containers.NODE_ROOT, pause=PAUSE, cni=_CNI)
    KUBELET.start(
        [
            kubernetes("kubelet"),
            f"--config={_write('kubelet.json', _kubelet_configuration())}",
            f"--kubeconfig={control.kubeconfig('node')}",
            f"--root-dir={_KUBELET_ROOT}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
        ]
    )
    PROXY.start(
        [kubernetes("kube-proxy"), f"--config={_write('kube-proxy.json', _proxy_configuration())}"],
    )
    KUBELET.wait(is_ready)
    offer_gpus()


def make_network() -> None:
    """An address of the machine's own, which everything of the cluster listens on."""
    if not Path("/sys/class/net", _NODE_BRIDGE).exists():
        run("ip", "link", "add", _NODE_BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", _NODE_BRIDGE)
        run("ip", "link", "set", _NODE_BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def is_ready() -> bool:
    """Whether the kubelet says that the node is ready."""
    with contextlib.suppress(OSError, Refused):
        found = control.api().request("GET", f"/api/v1/nodes/{NODE}")
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"].get("conditions", ()))
    return False


def offer_gpus(count: int = GPUS) -> None:
    """Say that the node has GPUs: scheduler, quota and kubelet then count them, though there are none."""
    patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(count)}]
    control.api().request_text(
        "PATCH", f"/api/v1/nodes/{NODE}/status", json.dumps(patch), content_type="application/json-patch+json"
    )


def crash() -> None:
    """What a power cut does: every process of the node ends at once."""
    for daemon in (KUBELET, CONTAINERD, PROXY):
        daemon.kill()
    _kill_containers()


def boot() -> None:
    """Start the node again after a crash, on the same disk."""
    _unmount(SOCKETS)
    shutil.rmtree(SOCKETS / "containerd", ignore_errors=True)
    CONTAINERD.again(containers.ready)
    PROXY.again()
    KUBELET.again()


def remove() -> None:
    """Take everything away: processes, mounts, links and rules."""
    for daemon in (KUBELET, PROXY):
        daemon.stop()
    if CONTAINERD.pid is not None:
        with contextlib.suppress(RuntimeError):
            containers.remove_all_containers()
    CONTAINERD.stop()
    _kill_containers()
    for place in (RUN, SOCKETS):
        _unmount(place)
    _remove_network_namespaces()
    with contextlib.suppress(RuntimeError):
        run(kubernetes("kube-proxy"), "--cleanup")
    _remove_pod_rules()
    for link in (_POD_BRIDGE, _NODE_BRIDGE):
        if Path("/sys/class/net", link).exists():
            run("ip", "link", "delete", link)
    _remove_cgroups()
    shutil.rmtree(SOCKETS, ignore_errors=True)


def _kill_containers() -> None:
    """End containers without containerd: their shims, and what the kubelet's cgroups hold."""
    for pid in processes("containerd-shim", str(SOCKETS)):
        _kill(pid)
    deadline = time.monotonic() + 30
    while pids := _pids_in_cgroups():
        for pid in pids:
            _kill(pid)
        if time.monotonic() > deadline:
            raise RuntimeError(f"the processes {pids} do not end")
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cgroups() -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob(f"**/{_CGROUP}") if path.is_dir()]


def _pids_in_cgroups() -> set[int]:
    pids: set[int] = set()
    for cgroup in _cgroups():
        for path in cgroup.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids |= {int(line) for line in path.read_text().split()}
    return pids


def _remove_cgroups() -> None:
    for cgroup in _cgroups():
        for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            cgroup.rmdir()


def _unmount(below: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{below}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _remove_network_namespaces() -> None:
    """Those that containerd made for pods; no other containerd runs where this one does."""
    for path in Path("/var/run/netns").glob("cni-*"):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        path.unlink(missing_ok=True)


def _remove_pod_rules() -> None:
    """The masquerading rules of pods that were not taken down by the plugin that made them."""
    for line in run("iptables", "--table", "nat", "--list-rules").splitlines():
        words = line.split()
        if words[0] == "-A" and "CNI-" in line and words[1] == "POSTROUTING":
            subprocess.run(["iptables", "-t", "nat", "-D", *shlex.split(line)[1:]], check=False, capture_output=True)
    for line in run("iptables", "--table", "nat", "--list-rules").splitlines():
        words = line.split()
        if words[0] == "-N" and words[1].startswith("CNI-"):
            for command in ("-F", "-X"):
                subprocess.run(["iptables", "-t", "nat", command, words[1]], check=False, capture_output=True)


def _write(name: str, document: dict[str, Any]) -> Path:
    path = RUN / "config" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def _write_cni() -> None:
    _CNI.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": _POD_BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(RUN / "pod-addresses"),
            "ranges": [[{"subnet": POD_NETWORK}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    document = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (_CNI / "10-pods.conflist").write_text(json.dumps(document))


def _kubelet_configuration() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        # Only this machine reaches its address.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{containers.SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Images are nowhere to be had again.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(RUN / "pod-logs"),
        "healthzBindAddress": "127.0.0.1",
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _proxy_configuration() -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": NODE_ADDRESS,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": str(control.kubeconfig("proxy"))},
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
