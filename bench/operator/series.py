"""Parse the ``/metrics`` of the operator and the API server."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class OperatorMetrics:
    """The metrics of an operator."""

    def __init__(self, text: str) -> None:
        self._text = text

    def requests(self) -> dict[str, float]:
        """Requests that it has sent, such as ``PATCH jobs``, without watches."""
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
        """Jobs in the work queue."""
        return sum(value for _, value in _values(self._text, "finetune_queue_depth"))

    @property
    def jobs(self) -> float:
        """Jobs in its cache."""
        return sum(value for _, value in _values(self._text, "finetune_jobs"))

    @property
    def waiting(self) -> float:
        """Jobs without a status, or of which no stage has started."""
        return sum(value for labels, value in _values(self._text, "finetune_jobs") if labels["phase"] == "Pending")


def api_server_requests(text: str) -> dict[str, float]:
    """Completed requests of all clients to the API server, such as ``APPLY finetunejobs/status``."""
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
