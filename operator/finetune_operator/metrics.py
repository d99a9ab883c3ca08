"""The operator's own signals. No job names as labels: their number has no bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_RECONCILE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WAITING_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)


class Metrics:
    """Counters and histograms; the gauges are read when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "finetune_reconcile_seconds",
            "Duration of one look at a job and of what follows from it.",
            buckets=_RECONCILE_SECONDS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "finetune_reconcile_errors", "Looks at a job that failed and are tried again.", registry=self.registry
        )
        self.api_requests = Counter(
            "finetune_api_requests",
            "Requests to the Kubernetes API; code is 0 where no answer came.",
            ["method", "resource", "code"],
            registry=self.registry,
        )
        self.stage_outcomes = Counter(
            "finetune_stage_outcomes",
            "Attempts of stages that ended; reason is Succeeded or that of the failure.",
            ["stage", "reason"],
            registry=self.registry,
        )
        self.waiting_seconds = Histogram(
            "finetune_stage_waiting_seconds",
            "Time from the creation of an attempt until it computes.",
            ["stage"],
            buckets=_WAITING_SECONDS,
            registry=self.registry,
        )
        self.last_resync = Gauge(
            "finetune_last_resync_timestamp_seconds",
            "Unix time of the last full look at all that exists.",
            registry=self.registry,
        )

    def count_api_request(self, method: str, resource: str, code: int) -> None:
        """Count one request to the Kubernetes API; ``code`` is 0 if there was no response."""
        self.api_requests.labels(method, resource, str(code)).inc()

    def gauge(self, jobs_by_phase: Callable[[], Mapping[str, int]], queue_depth: Callable[[], int]) -> None:
        """Say where the gauges are read."""
        self.registry.register(_State(jobs_by_phase, queue_depth))


class _State(Collector):
    def __init__(self, jobs_by_phase: Callable[[], Mapping[str, int]], queue_depth: Callable[[], int]) -> None:
        self._jobs_by_phase = jobs_by_phase
        self._queue_depth = queue_depth

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase.", labels=["phase"])
        for phase, count in self._jobs_by_phase().items():
            jobs.add_metric([phase], count)
        yield jobs
        yield GaugeMetricFamily(
            "finetune_queue_depth", "FineTuneJobs that wait to be looked at.", value=self._queue_depth()
        )
