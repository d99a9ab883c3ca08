"""containerd: an image store that outlives the cluster, and one containerd per node, which starts from a copy."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.daemons import Daemon
from tests.cluster.layout import CACHE, REGISTRY, RUN, SOCKETS
from tests.cluster.machine import run

_STORE = CACHE / "images"
"""The root directory of a containerd with images and without containers."""
_LIST = CACHE / "images.txt"

_CONFIG = """version = 2
root = "{root}"
state = "{sockets}/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # No sandbox starts without permission to lower oom_score_adj, so do not lower it.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


class Containerd:
    """One containerd with its own directories."""

    def __init__(self, name: str, root: Path, sockets: Path) -> None:
        self.daemon = Daemon(name)
        self.root = root
        self.socket = sockets / "containerd.sock"
        self._sockets = sockets

    def start(self, *, pause: str = "", cni: Path = Path("/nonexistent"), enter: Sequence[str] = ()) -> None:
        """Start containerd. ``enter`` is a prefix of the command."""
        self._sockets.mkdir(parents=True, exist_ok=True)
        config = RUN / "config" / f"{self.daemon.name}.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        fields = {"root": self.root, "sockets": self._sockets, "socket": self.socket, "pause": pause, "cni": cni}
        config.write_text(_CONFIG.format(**fields, registries=_plain_registry()))
        self.daemon.start([*enter, "containerd", "--config", config], ready=self.is_ready)

    def is_ready(self) -> bool:
        command = [*self._ctr, "version"]
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0

    def copy_store(self) -> None:
        """Copy the images of the store. Its large files never change, so they become hard links."""
        for folder in ("io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"):
            (self.root / folder).parent.mkdir(parents=True, exist_ok=True)
            run("cp", "--archive", "--link", _STORE / folder, self.root / folder)
        for name in ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"):
            database = self.root / name
            database.parent.mkdir(parents=True, exist_ok=True)
            database.unlink(missing_ok=True)
            shutil.copy2(_STORE / name, database)

    def remove_all_containers(self) -> None:
        """Kill and remove all containers."""
        for task in self.ctr("tasks", "list", "--quiet").split():
            command = [*self._ctr, "tasks", "delete", "--force", task]
            subprocess.run(command, check=False, capture_output=True, timeout=60)

    def ctr(self, *arguments: str) -> str:
        return run(*self._ctr, *arguments)

    @property
    def _ctr(self) -> tuple[str, ...]:
        return ("ctr", "--address", str(self.socket), "--namespace", "k8s.io")


def _plain_registry() -> Path:
    """Configure plain HTTP for the registry, and return the directory of the configuration."""
    folder = RUN / "config" / "registries"
    settings = folder / REGISTRY / "hosts.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(f'[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n')
    return folder


def stored() -> set[str]:
    """The names of the images in the store."""
    return set(_LIST.read_text().split()) if _LIST.exists() else set()


def pull(images: Sequence[str], keep: Sequence[str]) -> None:
    """Pull ``images`` into the store, unpack them, and remove all images that are not in ``keep``."""
    store = Containerd("containerd-of-the-store", _STORE, SOCKETS / "store")
    _LIST.unlink(missing_ok=True)
    store.start()
    try:
        for image in images:
            store.ctr("images", "pull", "--plain-http", image)
            # Protects the image from the garbage collection of kubelets, because no other registry has it.
            store.ctr("images", "label", image, "io.cri-containerd.image=managed")
        there = store.ctr("images", "list", "--quiet").split()
        if unneeded := [image for image in there if image not in keep]:
            store.ctr("images", "remove", "--sync", *unneeded)
    finally:
        store.daemon.stop()
    _LIST.write_text("\n".join(keep))


def responds(url: str) -> bool:
    """Whether a server responds at the URL, with any status code."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
