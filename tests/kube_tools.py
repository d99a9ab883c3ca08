"""Programs of Kubernetes for tests: KUBEBUILDER_ASSETS if it has them, else built once from Go modules into the cache.

``python -m tests.kube_tools`` builds what the tests of the API server need and prints where it lies: cold, on two
cores, seven minutes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from tests.tools import COMPILER_FLAGS, LINKER_FLAGS, cached, go

KUBERNETES_VERSION = "1.36.3"
ETCD_VERSION = "3.6.16"
COREDNS_VERSION = "1.15.0"
_COREDNS_PLUGINS = ("bind", "cache", "errors", "forward", "kubernetes")


def etcd() -> Path:
    """The etcd binary."""
    return _asset("etcd") or _built("etcd", ETCD_VERSION, "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3")


def kube_apiserver() -> Path:
    """The kube-apiserver binary."""
    return kubernetes("kube-apiserver")


def kubernetes(name: str) -> Path:
    """A program of Kubernetes itself: kubelet, kubectl, kube-scheduler …"""
    return _asset(name) or _built(name, KUBERNETES_VERSION, "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}")


def coredns() -> Path:
    """The name server of a cluster, with the plugins that one here needs: all of them take longer to build."""
    module = "github.com/coredns/coredns"
    imports = [f'import _ "{module}/plugin/{plugin}"' for plugin in _COREDNS_PLUGINS]
    program = [
        "package main",
        f'import "{module}/coremain"',
        *imports,
        "func main() { coremain.Run() }",
    ]
    return _built("coredns", COREDNS_VERSION, module, ".", "\n".join(program))


def _asset(name: str) -> Path | None:
    path = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), name)
    return path if path.is_absolute() and path.exists() else None


def _built(name: str, version: str, module: str, package: str, program: str = "") -> Path:
    """The program in the cache, built as a dependency of a module with ``program``, or nothing, in it."""

    def build(folder: Path) -> None:
        (folder / "go.mod").write_text("\n".join(_go_mod(module, version)) + "\n")
        if program:
            (folder / "main.go").write_text(program)
        linker_flags = f"{LINKER_FLAGS} -X k8s.io/component-base/version.gitVersion=v{version}"
        go(folder, "build", "-mod=mod", "-trimpath", COMPILER_FLAGS, linker_flags, "-o", name, package)

    return cached(name, version, build)


def _go_mod(module: str, version: str) -> Iterable[str]:
    yield "module finetune.dev/tool"
    yield "go 1.26.0"
    yield f"require {module} v{version}"
    if module == "k8s.io/kubernetes":
        # Kubernetes replaces its staging modules by folders, which only its own checkout has.
        yield "godebug default=go1.26"
        path = go(Path("/"), "mod", "download", "-json", f"{module}@v{version}")
        original = re.search(r'"GoMod": "(.*)"', path)
        assert original
        for name in re.findall(r"^\s*(\S+) => \./staging/", Path(original[1]).read_text(), flags=re.MULTILINE):
            yield f"replace {name} => {name} v0.{version.partition('.')[2]}"


if __name__ == "__main__":
    print(etcd(), kube_apiserver(), sep="\n")  # noqa: T201
