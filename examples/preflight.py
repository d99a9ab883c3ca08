"""Say in one sentence which disk has too little room for the examples, before anything is installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GIGABYTE = 10**9
PACKAGES_BYTES = 8 * GIGABYTE
"""What torch and all else take, with what is in between as they are unpacked."""
EXAMPLE_BYTES = GIGABYTE
"""What the data, checkpoints and result of an example take at most, with compiled modules."""


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
    """Where uv keeps packages."""
    usual = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(environment.get("UV_CACHE_DIR") or Path(usual) / "uv").absolute()


def existing(path: Path) -> Path:
    """``path``, or the nearest directory above it that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def main() -> None:
    """Exit with the first disk that has too little room."""
    for place, needed in needs(ROOT, uv_cache(os.environ)).items():
        free = shutil.disk_usage(existing(place)).free
        if free < needed:
            sys.exit(
                f"The disk of {place} has {free / GIGABYTE:.1f} GB left, and {needed / GIGABYTE:.0f} GB are needed; "
                "free some space, or have the checkout and XDG_CACHE_HOME on another disk"
            )


if __name__ == "__main__":
    main()
