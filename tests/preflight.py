"""Check the requirements of `make test` before anything is built: ``python -m tests.preflight CACHE PROGRAM…``.

Runs on any Python 3.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_GIB = 1 << 30
_ENVIRONMENT_GIB, _PROGRAMS_GIB, _RUN_GIB = 7, 5, 2
"""Disk space for .venv, which shares its files with uv's cache, for Go's caches and programs, and for the tests."""
_OLDEST_GO = (1, 21)
"""The first version of Go that downloads the toolchain that a module requires."""


def obstacle(cache: Path, programs: list[str], checkout: Path) -> str | None:
    """A sentence about the first requirement that is not met, or None."""
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(map(str, sys.version_info[:2]))
        return f"finetune-operator needs Python 3.11 or newer, but this is {version}: select one with PYTHON=…"
    if not sys.platform.startswith("linux"):
        return "The tests need Linux."
    if not (cache / "uv").exists() and importlib.util.find_spec("ensurepip") is None:
        return f"{sys.executable} cannot create environments: install its module venv (python3-venv on Debian)."
    from tests.tools import missing

    return _go() or _openssl() or _space(cache, bool(missing(programs)), checkout)


def _openssl() -> str | None:
    return None if shutil.which("openssl") else "The tests of TLS create certificates: install openssl."


def _go() -> str | None:
    needs = "The tests run against etcd and kube-apiserver, which Go builds"
    wanted = ".".join(map(str, _OLDEST_GO))
    if shutil.which("go") is None:
        return f"{needs}: install Go {wanted} or newer, from https://go.dev/dl."
    run = subprocess.run(["go", "version"], check=False, capture_output=True, text=True)
    found = re.search(r"go(\d+)\.(\d+)", run.stdout)
    if run.returncode or not found:
        return f"{needs}, but `go version` fails: {(run.stderr or run.stdout).strip()}"
    if tuple(map(int, found.groups())) < _OLDEST_GO:
        return f"{needs}: {found[0]} is too old, install Go {wanted} or newer, from https://go.dev/dl."
    return None


def _space(cache: Path, builds: bool, checkout: Path) -> str | None:
    needs = [(Path(tempfile.gettempdir()), _RUN_GIB)]
    if not (checkout / ".venv" / ".installed").exists():
        needs.append((checkout, _ENVIRONMENT_GIB))
    if builds:
        folder = subprocess.run(["go", "env", "GOCACHE"], check=False, capture_output=True, text=True).stdout.strip()
        needs.append((Path(folder or cache), _PROGRAMS_GIB))
    return shortage(needs)


def shortage(needs: list[tuple[Path, int]]) -> str | None:
    """A sentence about the first disk with too little space for all its folders together, or None."""
    wanted: dict[int, int] = {}
    for folder, gib in needs:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        device = nearest.stat().st_dev
        wanted[device] = wanted.get(device, 0) + gib
        free = shutil.disk_usage(nearest).free
        if free < wanted[device] * _GIB:
            return (
                f"Only {free / _GIB:.1f} GiB are free on the disk of {nearest}, but the tests need {wanted[device]}: "
                "free some space."
            )
    return None


if __name__ == "__main__":
    message = obstacle(Path(sys.argv[1]), sys.argv[2:], Path())
    if message:
        sys.exit(message)
