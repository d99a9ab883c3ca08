"""Programs that tests run against, built once from Go modules into the user's cache: ``python tests/tools.py``."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
LINKER_FLAGS, COMPILER_FLAGS = "-ldflags=-s -w", "-gcflags=all=-dwarf=false"
"""Nothing for a debugger: to make that takes a sixth of the time."""


def go_tool(name: str) -> Path:
    """The program ``name``, built if the cache does not have this version: some minutes on two cores, once.

    Raises:
        RuntimeError: It cannot be built; the message holds what ``go`` said.
    """
    package, version = _PACKAGES[name]

    def build(folder: Path) -> None:
        go(
            folder,
            "install",
            "-trimpath",
            "-tags",
            _TAGS,
            LINKER_FLAGS,
            COMPILER_FLAGS,
            f"{package}@{version}",
            GOBIN=str(folder),
        )

    return cached(name, version, build)


def cached(name: str, version: str, build: Callable[[Path], None]) -> Path:
    """The program of that version in the cache; ``build`` leaves it, by its name, in the folder that it is given."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "bin")
    program = cache / f"{name}-{version}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    # One at a time, whichever: two at once would each compile what they share, for minutes.
    with locked(cache / "lock"), tempfile.TemporaryDirectory(dir=cache) as folder:
        if not program.exists():
            build(Path(folder))
            Path(folder, name).rename(program)
    return program


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the file to oneself among all processes; it is made if it is not there."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def go(folder: Path, *arguments: str, **environment: str) -> str:
    """What ``go`` prints, run in ``folder``.

    Raises:
        RuntimeError: It failed; the message holds what it said.
    """
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    run = subprocess.run(
        ["go", *arguments],
        cwd=folder,
        env=os.environ | fixed | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(f"go {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout


if __name__ == "__main__":
    print(*(go_tool(name) for name in sys.argv[1:] or _PACKAGES), sep="\n")  # noqa: T201
