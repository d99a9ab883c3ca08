"""containerd: a store of images that outlives a cluster, and the one of the node, which starts as its copy."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.daemons import Daemon
from tests.cluster.layout import CACHE, RUN, SOCKETS
from tests.cluster.machine import run

STORE = CACHE / "images"
"""containerd's directory with the images and without containers."""
NODE_ROOT = RUN / "containerd"
SOCKET = SOCKETS / "containerd.sock"
_LIST = CACHE / "images.txt"

_CONFIG = """version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without the right to lower it, no sandbox would start.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def start(daemon: Daemon, root: Path, *, pause: str = "", cni: Path = Path("/nonexistent")) -> None:
    """Start containerd over the directory ``root``."""
    SOCKETS.mkdir(parents=True, exist_ok=True)
    config = RUN / "config" / f"{daemon.name}.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(_CONFIG.format(root=root, state=SOCKETS / "containerd", socket=SOCKET, pause=pause, cni=cni))
    daemon.start(["containerd", "--config", config], ready=ready)


def ready() -> bool:
    return subprocess.run([*_CTR, "version"], check=False, capture_output=True, timeout=30).returncode == 0


def stored() -> set[str]:
    """The images in the store, by name."""
    return set(_LIST.read_text().split()) if _LIST.exists() else set()


def pull(images: Sequence[str], keep: Sequence[str]) -> None:
    """Put ``images`` into the store, unpacked, and remove from it what is not in ``keep``."""
    daemon = Daemon("containerd-of-the-store")
    _LIST.unlink(missing_ok=True)
    start(daemon, STORE)
    try:
        for image in images:
            ctr("images", "pull", "--plain-http", image)
            # Kubelets pull images from elsewhere again when they run short of disk; these are nowhere else.
            ctr("images", "label", image, "io.cri-containerd.image=managed")
        there = ctr("images", "list", "--quiet").split()
        if unneeded := [image for image in there if image not in keep]:
            ctr("images", "remove", "--sync", *unneeded)
    finally:
        daemon.stop()
    _LIST.write_text("\n".join(keep))


def copy_for_the_node() -> None:
    """The node's directory: the large files, which never change, as further names of the same."""
    for folder in ("io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"):
        (NODE_ROOT / folder).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "--archive", "--link", STORE / folder, NODE_ROOT / folder)
    for database in ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"):
        target = NODE_ROOT / database
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy2(STORE / database, target)


def remove_all_containers() -> None:
    """End every container of the node at once."""
    for task in ctr("tasks", "list", "--quiet").split():
        subprocess.run([*_CTR, "tasks", "delete", "--force", task], check=False, capture_output=True, timeout=60)


def ctr(*arguments: str) -> str:
    return run(*_CTR, *arguments)


def answers(url: str) -> bool:
    """Whether something answers there, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


_CTR = ("ctr", "--address", str(SOCKET), "--namespace", "k8s.io")
