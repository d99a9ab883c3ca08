"""What the cgroup of this container says about memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60
"""cgroup v1 says so with a number that no machine has."""


@dataclass(frozen=True)
class _Files:
    """Where a version of cgroups tells of memory."""

    events: str
    """Lines of a word and a number, of which `oom_kill` counts the processes that were killed."""
    limit: str
    peak: str


_VERSIONS = (
    _Files("memory.events", "memory.max", "memory.peak"),
    _Files("memory/memory.oom_control", "memory/memory.limit_in_bytes", "memory/memory.max_usage_in_bytes"),
)


def out_of_memory_sentence(cgroups: Path = CGROUPS) -> str | None:
    """One sentence with limit and peak when the kernel has killed a process of this container for memory."""
    return next((said for files in _VERSIONS if (said := _sentence(cgroups, files))), None)


def _sentence(cgroups: Path, files: _Files) -> str | None:
    try:
        counts = dict(line.split() for line in (cgroups / files.events).read_text().splitlines())
        limit = _bytes(cgroups / files.limit)
    except (OSError, ValueError):
        return None
    if limit is None or int(counts.get("oom_kill", "0")) == 0:
        return None
    try:
        peak = _bytes(cgroups / files.peak)
    except (OSError, ValueError):
        peak = None  # memory.peak came with Linux 5.19.
    used = "" if peak is None else f", its peak use {_gibibytes(peak)}"
    return (
        f"the memory limit of the pod is {_gibibytes(limit)}{used}; raise the limit, or lower "
        "training.maxBatchSizePerDevice or training.maxSequenceLength"
    )


def _bytes(path: Path) -> int | None:
    """The number in a file; None where it says that there is no limit."""
    text = path.read_text().strip()
    return None if text == "max" or int(text) >= _NO_LIMIT else int(text)


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
