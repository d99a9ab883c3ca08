"""Memory limit, peak usage and out-of-memory kills of this container, from its cgroup."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60
"""In cgroup v1, a limit of at least this many bytes means that there is no limit."""


@dataclass(frozen=True)
class _Files:
    """Paths of the memory files of one cgroup version."""

    events: str
    """Lines of a key and a number; `oom_kill` is the number of processes that the kernel has killed."""
    limit: str
    peak: str
    used: str
    statistics: str
    """Lines of a key and a number; `inactive_file` is the cache that the kernel gives up first."""


_VERSIONS = (
    _Files("memory.events", "memory.max", "memory.peak", "memory.current", "memory.stat"),
    _Files(
        "memory/memory.oom_control",
        "memory/memory.limit_in_bytes",
        "memory/memory.max_usage_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ),
)


def out_of_memory_sentence(cgroups: Path = CGROUPS) -> str | None:
    """A sentence with limit and peak if the OOM killer has killed a process of this container, else None."""
    return next((sentence for files in _VERSIONS if (sentence := _sentence(cgroups, files))), None)


def free_bytes(cgroups: Path = CGROUPS) -> int:
    """Bytes that this container may still use; the largest number if it has no limit."""
    return min((_free(cgroups, files) for files in _VERSIONS), default=sys.maxsize)


def _free(cgroups: Path, files: _Files) -> int:
    try:
        limit = _bytes(cgroups / files.limit)
        used = int((cgroups / files.used).read_text())
        cache = _numbers(cgroups / files.statistics).get("inactive_file", 0)
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit is None else max(0, limit - used + cache)


def _numbers(path: Path) -> dict[str, int]:
    """The lines of a key and a number in a file."""
    return {key: int(number) for key, number in (line.split() for line in path.read_text().splitlines())}


def _sentence(cgroups: Path, files: _Files) -> str | None:
    try:
        counts = _numbers(cgroups / files.events)
        limit = _bytes(cgroups / files.limit)
    except (OSError, ValueError):
        return None
    if limit is None or counts.get("oom_kill", 0) == 0:
        return None
    try:
        peak = _bytes(cgroups / files.peak)
    except (OSError, ValueError):
        peak = None  # memory.peak requires Linux 5.19.
    used = "" if peak is None else f", its peak use {_gibibytes(peak)}"
    return (
        f"the memory limit of the pod is {_gibibytes(limit)}{used}; raise the limit, or lower "
        "training.maxBatchSizePerDevice or training.maxSequenceLength"
    )


def _bytes(path: Path) -> int | None:
    """The number of bytes in a file; None when it means that there is no limit."""
    text = path.read_text().strip()
    return None if text == "max" or int(text) >= _NO_LIMIT else int(text)


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
