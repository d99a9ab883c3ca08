"""Whether a quota of a namespace can ever allow the pods of a run."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_EXCEEDED = re.compile(
    r"exceeded quota: (?P<name>\S+), requested: (?P<requested>\S+), used: \S+, limited: (?P<limit>\S+)"
)
"""Source: the quota admission plugin, staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go."""

_FACTORS = {
    **{"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def never_fits(message: str, workers: int) -> str | None:
    """What the quota allows too little of, as a sentence; None if the pods fit once others have ended.

    Args:
        message: What the API server said when it refused one of the pods.
        workers: The number of pods, which run at the same time.
    """
    found = _EXCEEDED.search(message)
    if found is None:
        return None
    limits = dict(_entries(found["limit"]))
    for resource, requested in _entries(found["requested"]):
        one, limit = _amount(requested), _amount(limits.get(resource, ""))
        if one is not None and limit is not None and one * workers > limit:
            each = "the pod requests" if workers == 1 else f"each of the {workers} workers requests"
            return (
                f"It can never fit: {each} {resource}={requested}, and quota {found['name']} allows {limits[resource]} "
                "in all. Request less, or have the quota raised."
            )
    return None


def _entries(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (entry.partition("=") for entry in text.rstrip(",").split(","))]


def _amount(text: str) -> Decimal | None:
    """A Kubernetes quantity; None if it is not one."""
    number, suffix = re.fullmatch(r"([^A-Za-z]*(?:[eE][+-]?\d+)?)(.*)", text, re.S).groups()  # type: ignore[union-attr]
    try:
        return Decimal(number) * _FACTORS[suffix]
    except (InvalidOperation, KeyError):
        return None
