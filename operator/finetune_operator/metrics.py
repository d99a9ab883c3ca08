"""Prometheus metrics of the operator.

Only the scores have the names of jobs as labels: they exist as long as the job. Counters for each job would grow
without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.failures import Reason
from finetune_api.stage import STAGES

_RECONCILE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WAITING_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
SUCCEEDED = "Succeeded"
"""The reason of an attempt without a failure."""

Score = tuple[str, str, str, str, float]
"""Namespace, name of the job, metric, side (baseline, tuned or teacher), and value."""


class Metrics:
    """Counters and histograms; gauges are computed at each scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "finetune_reconcile_seconds",
            "Duration of one reconcile of a FineTuneJob.",
            buckets=_RECONCILE_SECONDS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "finetune_reconcile_errors", "Reconciles that failed and are retried.", registry=self.registry
        )
        self.api_requests = Counter(
            "finetune_api_requests",
            "Requests to the Kubernetes API; code is 0 if there was no response.",
            ["method", "resource", "code"],
            registry=self.registry,
        )
        self.stage_outcomes = Counter(
            "finetune_stage_outcomes",
            "Ended attempts of stages; reason is Succeeded or that of the failure.",
            ["stage", "reason"],
            registry=self.registry,
        )
        self.waiting_seconds = Histogram(
            "finetune_stage_waiting_seconds",
            "Time from the creation of an attempt until all its pods run.",
            ["stage"],
            buckets=_WAITING_SECONDS,
            registry=self.registry,
        )
        for stage in STAGES:
            self.waiting_seconds.labels(stage)
            # A counter that appears with the value 1 has no increase.
            for reason in (SUCCEEDED, *Reason):
                self.stage_outcomes.labels(stage, reason)
        self.last_resync = Gauge(
            "finetune_last_resync_timestamp_seconds",
            "Unix time of the last resync.",
            registry=self.registry,
        )

    def count_api_request(self, method: str, resource: str, code: int) -> None:
        """Count one request to the Kubernetes API; ``code`` is 0 if there was no response."""
        self.api_requests.labels(method, resource, str(code)).inc()

    def register_gauges(
        self,
        jobs_by_phase: Callable[[], Mapping[str, int]],
        queue_depth: Callable[[], int],
        scores: Callable[[], Iterable[Score]],
    ) -> None:
        """Register the functions that compute the gauges."""
        self.registry.register(_State(jobs_by_phase, queue_depth, scores))


class _State(Collector):
    def __init__(
        self,
        jobs_by_phase: Callable[[], Mapping[str, int]],
        queue_depth: Callable[[], int],
        scores: Callable[[], Iterable[Score]],
    ) -> None:
        self._jobs_by_phase = jobs_by_phase
        self._queue_depth = queue_depth
        self._scores = scores

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase.", labels=["phase"])
        for phase, count in self._jobs_by_phase().items():
            jobs.add_metric([phase], count)
        yield jobs
        yield GaugeMetricFamily(
            "finetune_queue_depth", "FineTuneJobs that are queued for a reconcile.", value=self._queue_depth()
        )
        scores = GaugeMetricFamily(
            "finetune_job_score",
            "Metrics of the baseline, the tuned model and its teacher, from the status of each evaluated FineTuneJob.",
            labels=["namespace", "name", "metric", "side"],
        )
        for namespace, name, metric, side, value in self._scores():
            scores.add_metric([namespace, name, metric, side], value)
        yield scores
