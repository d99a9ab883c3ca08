"""Check the free disk space for the examples before anything is installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GIGABYTE = 10**9
PACKAGES_BYTES = 8 * GIGABYTE
"""Size of torch and all other packages, with temporary files during the installation."""
EXAMPLE_BYTES = GIGABYTE
"""Upper bound for data, checkpoints and result of an example, with bytecode caches."""


def needs(root: Path, cache: Path) -> dict[Path, int]:
    """Bytes that must be free on the disks of the checkout and of uv's ``cache``, whose files .venv links to."""
    if (root / ".venv" / ".installed").exists():
        return {root: EXAMPLE_BYTES}
    linked = existing(root).stat().st_dev == existing(cache).stat().st_dev
    cached = any(cache.glob("archive-v*/*/torch"))
    return {
        root: EXAMPLE_BYTES if linked else PACKAGES_BYTES,
        cache: EXAMPLE_BYTES if cached else PACKAGES_BYTES,
    }


def uv_cache(environment: Mapping[str, str]) -> Path:
    """uv's package cache."""
    usual = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(environment.get("UV_CACHE_DIR") or Path(usual) / "uv").absolute()


def existing(path: Path) -> Path:
    """``path``, or its nearest existing parent directory."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def main() -> None:
    """Exit with a message about the first disk with too little space."""
    for place, needed in needs(ROOT, uv_cache(os.environ)).items():
        free = shutil.disk_usage(existing(place)).free
        if free < needed:
            sys.exit(
                f"The disk of {place} has {free / GIGABYTE:.1f} GB free, but {needed / GIGABYTE:.0f} GB are needed; "
                "free some space, or move the checkout and XDG_CACHE_HOME to another disk"
            )


if __name__ == "__main__":
    main()
