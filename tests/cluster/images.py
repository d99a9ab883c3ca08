"""The images of the cluster: built from the two Dockerfiles, pushed to a local registry, and kept in the cache.

The base image is built from packages of the distribution, so that no public registry is needed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import containers
from tests.cluster.daemons import Daemon
from tests.cluster.layout import CACHE, REGISTRY, ROOT
from tests.cluster.machine import run
from tests.tools import go_tool

BASE = "localhost/python:debian-12-dev"
PAUSE = f"{REGISTRY}/pause:1"
_DOCKERFILES = {"finetune-operator": "operator/Dockerfile", "finetune-trainer": "trainer_image/Dockerfile"}
_FIRST_STAGES = {"finetune-operator": "build", "finetune-trainer": "code"}
"""The stages of the Dockerfiles that are not part of the image. Their layers have the installed dependencies."""
_SENT = {
    "finetune-operator": tuple(f"operator/finetune_{name}" for name in ("api", "core", "kube", "operator")),
    "finetune-trainer": ("operator/finetune_api", "trainer_image/finetune_trainer"),
}
_ARGUMENTS = {"finetune-operator": (), "finetune-trainer": ("HARNESS=1",)}
"""Build arguments beside that of the base image. With lm-eval, jobs with `evaluation.harness` run too."""
_SENT_BY_BOTH = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")


def image(name: str) -> str:
    """The image of this checkout. Its tag is a digest of its sources and of its build arguments."""
    digest = hashlib.sha256(repr(_ARGUMENTS[name]).encode())
    for path in sorted(_files(name)):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode}\0".encode())
        digest.update(path.read_bytes())
    return f"{REGISTRY}/{name}:{digest.hexdigest()[:16]}"


def images() -> list[str]:
    return [PAUSE, *(image(name) for name in _DOCKERFILES)]


def provide() -> None:
    """Provide the images of this checkout in the store from which nodes start."""
    wanted = images()
    missing = sorted(set(wanted) - containers.stored())
    if not missing:
        return
    with registry():
        push(missing)
        containers.pull(missing, keep=wanted)
    _forget_all_but(wanted)


def push(references: Iterable[str]) -> None:
    """Build images and push them to the registry. The nodes of a running cluster pull them from there."""
    for reference in references:
        _build(reference)


@contextmanager
def registry() -> Iterator[None]:
    """Run a registry with its data in the cache."""
    daemon = Daemon("registry")
    start_registry(daemon)
    try:
        yield
    finally:
        daemon.stop()


def start_registry(daemon: Daemon) -> None:
    folder = CACHE / "registry"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [go_tool("crane"), "registry", "serve", "--address", REGISTRY, "--disk", folder]
    daemon.start(arguments, ready=lambda: containers.responds(f"http://{REGISTRY}/v2/"))


def _build(reference: str) -> None:
    name = reference.removeprefix(f"{REGISTRY}/").partition(":")[0]
    _make_base()
    if name == "pause":
        # A pause container only has to exist, so it runs `sleep`.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Dockerfile").write_text(f'FROM {BASE}\nENTRYPOINT ["sleep", "infinity"]\n')
            _buildah("bud", "--tag", reference, folder)
    else:
        values = (f"--build-arg={value}" for value in (f"BASE_IMAGE={BASE}", *_ARGUMENTS[name]))
        build = ("bud", "--layers", "--network", "host", *values, *_certificates(), "--file", ROOT / _DOCKERFILES[name])
        # The tag keeps the layers of the stage when layers without a tag are removed.
        _buildah(*build, "--target", _FIRST_STAGES[name], "--tag", f"localhost/{name}-first", ROOT)
        _buildah(*build, "--tag", reference, ROOT)
    # gzip would take minutes for gigabytes.
    fast = ("--compression-format", "zstd", "--compression-level", "1")
    _buildah("push", *fast, "--tls-verify=false", reference, f"docker://{reference}")


def _forget_all_but(wanted: Sequence[str]) -> None:
    """Remove images of earlier code, and layers that none of ``wanted`` needs: some have gigabytes."""
    _buildah("rm", "--all")  # A build that was interrupted leaves its container, which holds its layers.
    if former := [name for name in _built() if name.startswith(REGISTRY) and name not in wanted]:
        _buildah("rmi", *former)
    _buildah("rmi", "--prune")


def _built() -> list[str]:
    return _buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()


def _make_base() -> None:
    """Build a base image like the official one: Debian with Python, its headers and pip."""
    if BASE in _built():
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        packages = "ca-certificates,python3,python3-dev,python3-pip,python3-venv"
        # The image need not survive a crash of this machine.
        quick = "--dpkgopt=force-unsafe-io"
        run("mmdebstrap", "--variant=minbase", f"--include={packages}", quick, "bookworm", Path(folder, "root.tar"))
        Path(folder, "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["python3"]\n')
        _buildah("bud", "--tag", BASE, folder)


def _buildah(*arguments: str | Path) -> str:
    """Run buildah with its own store, without a daemon and without user namespaces."""
    store = CACHE / "buildah"
    store.mkdir(parents=True, exist_ok=True)
    # An option of the subcommand, not of the program.
    isolation = ("--isolation", "chroot") if arguments[0] == "bud" else ()
    return run(
        *("buildah", "--root", store, "--runroot", store / "run", "--storage-driver", "overlay"),
        *(arguments[0], *isolation, *arguments[1:]),
        env=os.environ | {"BUILDAH_FORMAT": "oci", "TMPDIR": str(CACHE)},
    )


def _certificates() -> Iterator[str]:
    """Options that pass this machine's certificates and proxy settings to the build."""
    for name in ("/etc/ssl/certs", "/usr/local/share/ca-certificates"):
        if Path(name).is_dir() and any(Path(name).iterdir()):
            yield from ("--volume", f"{name}:{name}:ro")
    for variable in ("PIP_CERT", "SSL_CERT_FILE", "PIP_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY"):
        if value := os.environ.get(variable):
            yield from ("--env", f"{variable}={value}")


def _files(name: str) -> Iterator[Path]:
    yield ROOT / _DOCKERFILES[name]
    for sent in _SENT_BY_BOTH:
        yield ROOT / sent
    for folder in _SENT[name]:
        yield from (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
