"""What the cgroup of this container says about memory."""

from __future__ import annotations

from pathlib import Path

_EVENTS = Path("/sys/fs/cgroup/memory.events")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_PEAK = Path("/sys/fs/cgroup/memory.peak")


def out_of_memory_sentence(events: Path = _EVENTS, limit: Path = _LIMIT, peak: Path = _PEAK) -> str | None:
    """One sentence with limit and peak when the kernel has killed a process of this cgroup (v2) for memory."""
    try:
        counts = dict(line.split() for line in events.read_text().splitlines())
        maximum = limit.read_text().strip()
    except (OSError, ValueError):
        return None
    if maximum == "max" or int(counts.get("oom_kill", "0")) == 0:
        return None
    try:
        used = f", its peak use {_gibibytes(int(peak.read_text()))}"
    except (OSError, ValueError):
        used = ""
    return f"the memory limit of the pod is {_gibibytes(int(maximum))}{used}; raise the limit or lower the batch size"


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
