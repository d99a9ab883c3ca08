"""Build the Go programs that tests use into the user's cache, once: ``python -m tests.tools``."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ETCD, _KUBERNETES, _COREDNS = "go.etcd.io/etcd/server/v3", "k8s.io/kubernetes", "github.com/coredns/coredns"
_CRANE, _HELM = "github.com/google/go-containerregistry", "helm.sh/helm/v4"
_PROMETHEUS, _VERSITYGW = "github.com/prometheus/prometheus", "github.com/versity/versitygw"
_VERSIONS = {
    _ETCD: "3.6.16",
    _KUBERNETES: "1.36.3",
    _COREDNS: "1.15.0",
    _CRANE: "0.22.1",
    _HELM: "4.3.1",
    _PROMETHEUS: "0.316.0",
    _VERSITYGW: "1.8.0",
}
_MODULES = {
    # First, because the images of the cluster need it.
    "crane": _CRANE,
    "etcd": _ETCD,
    "kube-apiserver": _KUBERNETES,
    "kube-controller-manager": _KUBERNETES,
    "kube-scheduler": _KUBERNETES,
    "kubelet": _KUBERNETES,
    "kube-proxy": _KUBERNETES,
    "kubectl": _KUBERNETES,
    "coredns": _COREDNS,
    "helm": _HELM,
    "prometheus": _PROMETHEUS,
    "promtool": _PROMETHEUS,
    "versitygw": _VERSITYGW,
}
PROGRAMS = tuple(_MODULES)
"""Their names, in the best build order."""
# Prometheus without the service discovery of all clouds, which takes most of the build time.
_TAGS = "remove_all_sd,enable_kubernetes_sd"
# The plugins that the cluster needs.
_COREDNS_PLUGINS = ("bind", "cache", "errors", "forward", "kubernetes")
# Without debug information, a build is a sixth faster; with less garbage collection in the compiler, a fifth.
_COMPILER_FLAGS, _COMPILER_GARBAGE_PERCENT = "-gcflags=all=-dwarf=false", "400"
_LINKER_FLAGS = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v{_VERSIONS[_KUBERNETES]}"


def go_tool(name: str) -> Path:
    """The path of the program ``name``, from KUBEBUILDER_ASSETS if it is there, else from the cache.

    If the cache does not have this version, it is built, which takes some minutes on two cores.

    Raises:
        RuntimeError: The build failed; the message has the output of ``go``.
    """
    asset = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), name)
    if asset.is_absolute() and asset.exists():
        return asset
    program = _built(name)
    if program.exists():
        return program
    cache = program.parent
    cache.mkdir(parents=True, exist_ok=True)
    # One build at a time: two would both compile the packages that they share, which takes minutes.
    with locked(cache / "lock"), tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as folder:
        if not program.exists():
            _build(Path(folder), name, _MODULES[name])
            Path(folder, name).rename(program)
    return program


def missing(names: Sequence[str]) -> list[str]:
    """The programs that are neither in KUBEBUILDER_ASSETS nor in the cache."""
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/nonexistent")
    return [name for name in names if not (assets / name).exists() and not _built(name).exists()]


def _built(name: str) -> Path:
    """The path of the program in the cache, whether it is built or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "finetune-operator", "bin", f"{name}-{_VERSIONS[_MODULES[name]]}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file, which is created if it does not exist."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, name: str, module: str) -> None:
    # All in one module, so that shared packages such as the Kubernetes client are compiled once. Except etcd: the
    # others need a newer etcd client than its server compiles with.
    modules = [_ETCD] if module == _ETCD else [other for other in _VERSIONS if other != _ETCD]
    (folder / "go.mod").write_text("\n".join(_go_mod(modules)) + "\n")
    flags = ("-mod=mod", "-trimpath", "-tags", _TAGS, _COMPILER_FLAGS, _LINKER_FLAGS)
    _go(folder, "build", *flags, "-o", f"./{name}", _package(folder, name, module))


def _package(folder: Path, name: str, module: str) -> str:
    """The main package of the program. That of CoreDNS is written to ``folder``, with the plugins that are needed."""
    if module == _ETCD:
        return module
    if module != _COREDNS:
        return f"{module}/cmd/{name}"
    imports = [f'import _ "{module}/plugin/{plugin}"' for plugin in _COREDNS_PLUGINS]
    main = ["package main", f'import "{module}/coremain"', *imports, "func main() { coremain.Run() }"]
    (folder / "nameserver").mkdir()
    (folder / "nameserver" / "main.go").write_text("\n".join(main))
    return "./nameserver"


def _go_mod(modules: Sequence[str]) -> Iterator[str]:
    yield "module finetune.dev/tools"
    yield "go 1.26.0"
    for module in modules:
        yield f"require {module} v{_VERSIONS[module]}"
    if _KUBERNETES in modules:
        # Kubernetes replaces its staging modules with folders that only its own checkout has.
        yield "godebug default=go1.26"
        version = _VERSIONS[_KUBERNETES]
        path = _go(Path("/"), "list", "-m", "-f", "{{.GoMod}}", f"{_KUBERNETES}@v{version}").strip()
        for name in re.findall(r"^\s*(\S+) => \./staging/", Path(path).read_text(), flags=re.MULTILINE):
            yield f"replace {name} => {name} v0.{version.partition('.')[2]}"


def _go(folder: Path, *arguments: str) -> str:
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GOGC": _COMPILER_GARBAGE_PERCENT}
    if os.access(folder, os.W_OK):
        fixed["GOTMPDIR"] = str(folder)  # Removed with the folder, even if the build is interrupted.
    run = subprocess.run(
        ["go", *arguments],
        cwd=folder,
        env=os.environ | fixed,
        check=False,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(f"go {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout


if __name__ == "__main__":
    # Exit normally, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    print(*(go_tool(name) for name in sys.argv[1:] or PROGRAMS), sep="\n")  # noqa: T201
