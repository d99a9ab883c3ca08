"""The requirements of a node on this machine, and the packages that are installed for it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.layout import Port

_PACKAGES = {
    # program: Debian package
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
}
_CNI_PLUGINS = Path("/usr/lib/cni")
_FREEBIND = 15
"""IP_FREEBIND of `ip(7)`, for which Python has no constant: bind to an address before the machine has it."""
_NEEDED_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27}


def obstacle() -> str | None:
    """A sentence about the first requirement that this machine does not meet, or None."""
    if not sys.platform.startswith("linux"):
        return "The cluster needs Linux."
    effective = int(_status_field("CapEff"), 16)
    lacking = [name for name, bit in _NEEDED_CAPABILITIES.items() if not effective >> bit & 1]
    cgroups = Path("/sys/fs/cgroup")
    needs = (
        (os.geteuid() == 0, "root: it runs containerd and kubelets"),
        (not lacking, f"{', '.join(lacking)}, which this container lacks"),
        ((cgroups / "memory").is_dir() or (cgroups / "cgroup.controllers").exists(), "a cgroup hierarchy"),
        (shutil.which("go") is not None, "Go, which Kubernetes is built with"),
        (shutil.which("apt-get") is not None or not _missing_packages(), f"{', '.join(_missing_packages())}"),
    )
    return next((f"The cluster needs {what}." for given, what in needs if not given), None)


def require_space(folder: Path, gib: int, purpose: str) -> None:
    """Check the free disk space, because kubelets evict pods when space runs short.

    Raises:
        RuntimeError: Less than ``gib`` GiB are free on the disk of ``folder``.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free / (1 << 30)
    if free < gib:
        raise RuntimeError(f"Only {free:.1f} GiB are free in {there}, but {purpose} needs {gib}: free some space.")


def require_ports(ports: Iterable[Port]) -> None:
    """Check that the ports are free.

    Raises:
        RuntimeError: A port is in use.
    """
    for port in ports:
        if _is_taken(port):
            raise RuntimeError(
                f"Port {port.number} of {port.address}, which {port.owner} of the cluster needs, is in use: "
                f"stop the program that uses it (`ss --listening --numeric --processes` shows it)."
            )


def _is_taken(port: Port) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM if port.udp else socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_IP, _FREEBIND, 1)
        if not port.udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Closed connections do not count.
        try:
            probe.bind((port.address, port.number))
            if not port.udp:
                probe.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def install() -> None:
    """Install missing packages of the distribution."""
    packages = _missing_packages()
    if not packages:
        return
    # Debian starts services when it installs them. The node starts its own containerd.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages, env=environment)


def run(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program and return its standard output.

    Raises:
        RuntimeError: The program failed; the message has the end of its output.
    """
    command = [str(argument) for argument in arguments]
    done = subprocess.run(command, env=env, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)} failed with exit code {done.returncode}:\n{output}")
    return done.stdout


def _missing_packages() -> list[str]:
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    return missing + ([] if (_CNI_PLUGINS / "bridge").exists() else ["containernetworking-plugins"])


def _status_field(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
