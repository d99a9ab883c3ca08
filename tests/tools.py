"""Programs that tests run against, built once from Go modules into the user's cache: ``python tests/tools.py``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PACKAGES = {
    # name: (package, version)
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
    "crane": ("github.com/google/go-containerregistry/cmd/crane", "v0.22.1"),
    "helm": ("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "promtool": ("github.com/prometheus/prometheus/cmd/promtool", "v0.316.0"),
    "prometheus": ("github.com/prometheus/prometheus/cmd/prometheus", "v0.316.0"),
}
# Prometheus: without the clients of all the clouds that it can find targets in, which take most of the time to build.
_TAGS = "remove_all_sd,enable_kubernetes_sd"


def go_tool(name: str) -> Path:
    """The program ``name``, built if the cache does not have this version: some minutes on two cores, once.

    Raises:
        RuntimeError: It cannot be built; the message holds what ``go`` said.
    """
    package, version = _PACKAGES[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "bin")
    program = cache / f"{name}-{version}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": folder, "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
        command = ["go", "install", "-trimpath", "-tags", _TAGS, "-ldflags", "-s -w", f"{package}@{version}"]
        run = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}: {run.stderr.strip()}")
        # A rename is atomic: a build beside this one ends with the same file, never with half of one.
        Path(folder, name).rename(program)
    return program


if __name__ == "__main__":
    print(*(go_tool(name) for name in sys.argv[1:] or _PACKAGES), sep="\n")  # noqa: T201
