"""What the operator and the API server say of themselves at ``/metrics``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Asked:
    """What an operator says."""

    def __init__(self, text: str) -> None:
        self._text = text

    def requests(self) -> dict[str, float]:
        """What it has sent so far, such as ``PATCH jobs``; its watches not counted."""
        found: defaultdict[str, float] = defaultdict(float)
        for labels, value in _values(self._text, "finetune_api_requests_total"):
            code = "" if labels["code"].startswith("2") else f" {labels['code']}"
            found[f"{labels['method']} {labels['resource']}{code}"] += value
        return dict(found)

    @property
    def writes(self) -> float:
        return sum(count for what, count in self.requests().items() if not what.startswith("GET"))

    @property
    def queued(self) -> float:
        """Jobs that wait to be looked at."""
        return sum(value for _, value in _values(self._text, "finetune_queue_depth"))

    @property
    def jobs(self) -> float:
        """Jobs that it knows."""
        return sum(value for _, value in _values(self._text, "finetune_jobs"))

    @property
    def waiting(self) -> float:
        """Jobs of which no stage has started, or that have no status."""
        return sum(value for labels, value in _values(self._text, "finetune_jobs") if labels["phase"] == "Pending")


def served(text: str) -> dict[str, float]:
    """What an API server was asked for so far by anybody, such as ``APPLY finetunejobs/status``; no open watches."""
    found: defaultdict[str, float] = defaultdict(float)
    for labels, value in _values(text, "apiserver_request_total"):
        if labels["resource"]:
            part = f"/{labels['subresource']}" if labels["subresource"] else ""
            found[f"{labels['verb']} {labels['resource']}{part}"] += value
    return dict(found)


def _values(text: str, wanted: str) -> Iterator[tuple[dict[str, str], float]]:
    for name, labels, value in _SERIES.findall(text):
        if name == wanted:
            yield dict(_LABEL.findall(labels)), float(value)
