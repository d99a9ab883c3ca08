"""A node: containerd, kubelet and kube-proxy, and their removal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.apiserver.api import Refused
from tests.cluster import control
from tests.cluster.containers import Containerd
from tests.cluster.daemons import Daemon, processes
from tests.cluster.images import PAUSE
from tests.cluster.layout import MACHINE_ADDRESS, PLACES, POD_NETWORK, Place
from tests.cluster.machine import run
from tests.cluster.network import POD_BRIDGE
from tests.tools import go_tool

GPUS = 4
"""The number of GPUs that each node advertises."""
_CGROUPS = Path("/sys/fs/cgroup")
_CPU_SHARES = 4096
"""All pods of a node together have the CPU weight of four processes outside of it, instead of one."""


class Node:
    """One node of the cluster. All its state is on disk, so any process can use it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = place.name
        self.kubelet = Daemon(f"kubelet-{place.name}")
        self.containerd = Containerd(f"containerd-{place.name}", place.root / "containerd", place.sockets)
        self._proxy = Daemon(f"kube-proxy-{place.name}")
        self._kubelet_root = place.root / "kubelet"
        self._cni = place.root / "cni"

    def start(self) -> None:
        """Start the node and wait until it is ready for pods."""
        self._write_cni()
        self._make_cgroups()
        self.containerd.copy_store()
        self.containerd.start(pause=PAUSE, cni=self._cni, enter=self.place.enter)
        self.kubelet.start(
            [
                *self.place.enter,
                go_tool("kubelet"),
                f"--config={self._write('kubelet.json', self._kubelet_configuration())}",
                f"--kubeconfig={control.kubeconfig(self.name)}",
                f"--root-dir={self._kubelet_root}",
                f"--cert-dir={self._kubelet_root / 'certificates'}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.place.address}",
            ]
        )
        configuration = self._write("kube-proxy.json", self._proxy_configuration())
        self._proxy.start([*self.place.enter, go_tool("kube-proxy"), f"--config={configuration}"])
        self.kubelet.wait(self.is_ready)
        self.offer_gpus()

    def is_ready(self) -> bool:
        """Whether the node has the condition Ready."""
        with contextlib.suppress(OSError, Refused):
            found = control.api().request("GET", f"/api/v1/nodes/{self.name}")
            return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"].get("conditions", ()))
        return False

    def offer_gpus(self) -> None:
        """Advertise GPUs that do not exist, so that scheduler, quota and kubelet count them."""
        patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(GPUS)}]
        control.api().request_text(
            "PATCH", f"/api/v1/nodes/{self.name}/status", json.dumps(patch), content_type="application/json-patch+json"
        )

    def crash(self) -> None:
        """Kill every process of the node at once, as a power failure does."""
        for daemon in (self.kubelet, self.containerd.daemon, self._proxy):
            daemon.kill()
        self._kill_containers()

    def boot(self) -> None:
        """Start the node again after a crash, on the same disk."""
        _unmount(self.place.sockets)
        shutil.rmtree(self.place.sockets / "containerd", ignore_errors=True)
        self.containerd.daemon.restart(self.containerd.is_ready)
        self._proxy.restart()
        self.kubelet.restart()

    def volume(self, pod: dict[str, Any], name: str) -> Path:
        """The directory of an emptyDir of a pod."""
        return self._kubelet_root / "pods" / pod["metadata"]["uid"] / "volumes" / "kubernetes.io~empty-dir" / name

    def task(self, container: str) -> int:
        """The process id, on this machine, of the first process of a container."""
        for line in self.containerd.ctr("tasks", "list").splitlines()[1:]:
            task, pid, _ = line.split(None, 2)
            if task == container:
                return int(pid)
        raise AssertionError(f"no task of container {container} on {self.name}")

    def remove(self) -> None:
        """Remove everything of the node: processes, mounts, rules and cgroups."""
        for daemon in (self.kubelet, self._proxy):
            daemon.stop()
        if self.containerd.daemon.pid is not None:
            with contextlib.suppress(RuntimeError):
                self.containerd.remove_all_containers()
        self.containerd.daemon.stop()
        self._kill_containers()
        for place in (self.place.root, self.place.sockets):
            _unmount(place)
        if self.place.network_namespace is None:
            with contextlib.suppress(RuntimeError):
                run(go_tool("kube-proxy"), "--cleanup")
        self._remove_cgroups()
        shutil.rmtree(self.place.sockets, ignore_errors=True)

    def _kill_containers(self) -> None:
        """Kill containers without containerd: their shims, and all processes in the kubelet's cgroups."""
        for pid in processes("containerd-shim", str(self.place.sockets)):
            _kill(pid)
        deadline = time.monotonic() + 30
        while pids := set(self._pids_in_cgroups()):
            for pid in pids:
                _kill(pid)
            if time.monotonic() > deadline:
                raise RuntimeError(f"the processes {pids} did not end within 30 s of SIGKILL")
            time.sleep(0.1)

    def _cgroups(self) -> list[Path]:
        return [
            path for path in (*_CGROUPS.glob(f"*/{self.place.cgroup}"), _CGROUPS / self.place.cgroup) if path.is_dir()
        ]

    def _make_cgroups(self) -> None:
        """Create a cgroup root for each kubelet. Two kubelets with the same root would kill each other's pods."""
        controllers = _CGROUPS / "cgroup.controllers"
        if controllers.exists():
            enabled = " ".join(f"+{name}" for name in controllers.read_text().split())
            (_CGROUPS / "cgroup.subtree_control").write_text(enabled)
            (_CGROUPS / self.place.cgroup).mkdir(exist_ok=True)
            # A weight of 100 equals 1024 shares.
            (_CGROUPS / self.place.cgroup / "cpu.weight").write_text(str(_CPU_SHARES * 100 // 1024))
            return
        for hierarchy in _CGROUPS.iterdir():
            if hierarchy.is_dir() and not hierarchy.is_symlink():
                (hierarchy / self.place.cgroup).mkdir(exist_ok=True)
        (_CGROUPS / "cpu" / self.place.cgroup / "cpu.shares").write_text(str(_CPU_SHARES))

    def _pids_in_cgroups(self) -> Iterator[int]:
        for cgroup in self._cgroups():
            for path in cgroup.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    yield from (int(line) for line in path.read_text().split())

    def _remove_cgroups(self) -> None:
        for cgroup in self._cgroups():
            for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                cgroup.rmdir()

    def _write(self, name: str, document: dict[str, Any]) -> Path:
        path = self.place.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path

    def _write_cni(self) -> None:
        bridge = {
            "type": "bridge",
            "bridge": POD_BRIDGE,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.place.root / "pod-addresses"),
                "ranges": [[{"subnet": self.place.pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        self._write("cni/10-pods.conflist", {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})

    def _kubelet_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.place.address,
            # Its address can only be reached from this machine.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.place.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [MACHINE_ADDRESS],
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
            # Deleted images could not be pulled again.
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(self.place.root / "pod-logs"),
            "healthzBindAddress": "127.0.0.1",
            "nodeStatusUpdateFrequency": "5s",
            "serializeImagePulls": False,
            "shutdownGracePeriod": "0s",
            # The interval for measuring volumes; the default is one minute.
            "volumeStatsAggPeriod": "10s",
        }

    def _proxy_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": self.place.address,
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(control.kubeconfig("proxy"))},
            "mode": "iptables",
            "clusterCIDR": POD_NETWORK,
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


NODES = tuple(Node(place) for place in PLACES)


def node_of(pod: dict[str, Any]) -> Node:
    """The node on which a pod runs."""
    return next(node for node in NODES if node.name == pod["spec"]["nodeName"])


def all_ready() -> bool:
    return all(node.is_ready() for node in NODES)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _unmount(below: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{below}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
