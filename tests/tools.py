"""Programs that tests run against, built once from Go modules into the user's cache: ``python -m tests.tools``."""

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
    # The images of the cluster wait for the first.
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
"""Their names, in the order in which it is best to build them."""
# Prometheus: without the clients of all the clouds that it can find targets in, which take most of the time to build.
_TAGS = "remove_all_sd,enable_kubernetes_sd"
# With only the plugins that a cluster here needs.
_COREDNS_PLUGINS = ("bind", "cache", "errors", "forward", "kubernetes")
# Nothing for a debugger, which takes a sixth of the time to make; the compiler collects its garbage seldom: a fifth.
_COMPILER_FLAGS, _COMPILER_GARBAGE_PERCENT = "-gcflags=all=-dwarf=false", "400"
_LINKER_FLAGS = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v{_VERSIONS[_KUBERNETES]}"


def go_tool(name: str) -> Path:
    """The program ``name``: of Kubernetes' own if KUBEBUILDER_ASSETS has it, else from the cache.

    It is built if the cache does not have this version: some minutes on two cores, once.

    Raises:
        RuntimeError: It cannot be built; the message holds what ``go`` said.
    """
    asset = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), name)
    if asset.is_absolute() and asset.exists():
        return asset
    program = _built(name)
    if program.exists():
        return program
    cache = program.parent
    cache.mkdir(parents=True, exist_ok=True)
    # One at a time, whichever: two at once would each compile what they share, for minutes.
    with locked(cache / "lock"), tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as folder:
        if not program.exists():
            _build(Path(folder), name, _MODULES[name])
            Path(folder, name).rename(program)
    return program


def missing(names: Sequence[str]) -> list[str]:
    """Those that would have to be built."""
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/nonexistent")
    return [name for name in names if not (assets / name).exists() and not _built(name).exists()]


def _built(name: str) -> Path:
    """Where the program lies once it is built."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "finetune-operator", "bin", f"{name}-{_VERSIONS[_MODULES[name]]}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the file to oneself among all processes; it is made if it is not there."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, name: str, module: str) -> None:
    # All in one module, so that what they share, such as Kubernetes' client, is compiled once. Not so etcd: the others
    # want a newer client of it than its server compiles with.
    modules = [_ETCD] if module == _ETCD else [other for other in _VERSIONS if other != _ETCD]
    (folder / "go.mod").write_text("\n".join(_go_mod(modules)) + "\n")
    flags = ("-mod=mod", "-trimpath", "-tags", _TAGS, _COMPILER_FLAGS, _LINKER_FLAGS)
    _go(folder, "build", *flags, "-o", f"./{name}", _package(folder, name, module))


def _package(folder: Path, name: str, module: str) -> str:
    """The package of the program's ``main``, which is written to ``folder`` where the module's own will not do."""
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
        # Kubernetes replaces its staging modules by folders, which only its own checkout has.
        yield "godebug default=go1.26"
        version = _VERSIONS[_KUBERNETES]
        path = _go(Path("/"), "list", "-m", "-f", "{{.GoMod}}", f"{_KUBERNETES}@v{version}").strip()
        for name in re.findall(r"^\s*(\S+) => \./staging/", Path(path).read_text(), flags=re.MULTILINE):
            yield f"replace {name} => {name} v0.{version.partition('.')[2]}"


def _go(folder: Path, *arguments: str) -> str:
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GOGC": _COMPILER_GARBAGE_PERCENT}
    if os.access(folder, os.W_OK):
        fixed["GOTMPDIR"] = str(folder)  # It goes with the folder, also when the build is broken off.
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
    # So that what has begun is taken away.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    print(*(go_tool(name) for name in sys.argv[1:] or PROGRAMS), sep="\n")  # noqa: T201
