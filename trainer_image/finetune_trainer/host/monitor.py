"""``/metrics`` and ``/progress`` of a stage, updated from the events of its workers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from finetune_api.events import EvaluationEvent, ProgressEvent, StepEvent, ValidationEvent
from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import HEARTBEAT_NAME, CheckpointRef, Progress, StageConfig
from finetune_trainer.host.heartbeat import beat

_STEP_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_CHECKPOINT_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_RATE_HALF_LIFE_STEPS = 10

log = logging.getLogger("finetune_trainer")


class OptionalGauge(Collector):
    """A gauge without a series until it has a value, where 0 would be taken for one."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._value: float | None = None
        registry.register(self)

    def set(self, value: float) -> None:
        self._value = value

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._documentation, self._value)


class StageMetrics:
    """The Prometheus metrics of a stage. Labels do not include the job: Prometheus adds namespace and pod."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge = self._gauge
        self.loss = gauge("finetune_train_loss", "Training loss of the last step.")
        self.cross_entropy = OptionalGauge(
            "finetune_train_cross_entropy", "With a teacher: cross entropy of the last step.", self.registry
        )
        self.divergence = OptionalGauge(
            "finetune_train_divergence",
            "With a teacher: KL(teacher || student) of the last step, in nats.",
            self.registry,
        )
        self.validation_loss = gauge("finetune_train_validation_loss", "Last loss on the validation split.")
        self.validation_metric = Gauge(
            "finetune_train_validation_metric",
            "Last value of a metric of generated answers on the validation split.",
            ["metric"],
            registry=self.registry,
        )
        self.learning_rate = gauge("finetune_train_learning_rate", "Learning rate of the last step.")
        self.gradient_norm = gauge("finetune_train_gradient_norm", "Global gradient norm before clipping.")
        self.step = gauge("finetune_train_step", "Optimizer steps done.")
        self.target_step = gauge("finetune_train_target_step", "Total number of optimizer steps.")
        self.epoch = gauge("finetune_train_epoch", "Epochs done.")
        self.tokens = Counter("finetune_train_tokens", "Tokens trained on by this attempt.", registry=self.registry)
        self.tokens_per_second = gauge("finetune_train_tokens_per_second", "Tokens per second, all processes.")
        self.memory = gauge(
            "finetune_train_memory_bytes", "Peak memory of rank 0: GPU memory if it has a GPU, else RSS."
        )
        self.last_step_time = gauge("finetune_train_last_step_timestamp_seconds", "Unix time of the last step.")
        self.step_seconds = Histogram(
            "finetune_train_step_seconds", "Duration of a step.", buckets=_STEP_SECONDS, registry=self.registry
        )
        self.checkpoint_seconds = Histogram(
            "finetune_checkpoint_seconds",
            "Duration of a checkpoint: save stops training, upload does not.",
            ["phase"],
            buckets=_CHECKPOINT_SECONDS,
            registry=self.registry,
        )
        self.checkpoint_step = gauge("finetune_checkpoint_step", "Step of the newest complete checkpoint.")
        self.evaluation = Gauge(
            "finetune_evaluation_metric",
            "Metric on the test split, of the baseline, of the tuned model, and of its teacher.",
            ["model", "metric"],
            registry=self.registry,
        )

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, registry=self.registry)


class StageMonitor:
    """Updates progress and metrics of a stage from worker events; thread-safe."""

    def __init__(self, config: StageConfig) -> None:
        self.metrics = StageMetrics()
        # Reentrant, because a signal handler may interrupt an update and call update() on the same thread.
        self._lock = threading.RLock()
        self._progress = Progress(
            stage=config.stage, attempt=config.attempt, activity="starting", updated_at=time.time()
        )
        self._rate: float | None = None
        self._heartbeat = Path(config.workspace) / HEARTBEAT_NAME

    @property
    def progress(self) -> Progress:
        with self._lock:
            return self._progress

    def update(self, **changes: Any) -> None:
        """Change fields of the progress and set its timestamp; a new activity is also logged."""
        with self._lock:
            former = self._progress
            self._progress = former.model_copy(update={**changes, "updated_at": time.time()})
            beat(self._heartbeat)
            if self._progress.activity != former.activity:
                log.info("%s", self._progress.activity)

    def on_progress(self, event: ProgressEvent) -> None:
        self.update(activity=event.activity[:200], done=event.done, total=event.total, unit=event.unit)

    def on_step(self, event: StepEvent) -> None:
        metrics, seconds = self.metrics, event.seconds
        metrics.loss.set(event.loss)
        metrics.learning_rate.set(event.learning_rate)
        if event.cross_entropy is not None and event.divergence is not None:
            metrics.cross_entropy.set(event.cross_entropy)
            metrics.divergence.set(event.divergence)
        if event.gradient_norm is not None:
            metrics.gradient_norm.set(event.gradient_norm)
        metrics.step.set(event.step)
        metrics.target_step.set(event.total)
        metrics.epoch.set(event.epoch)
        metrics.tokens.inc(event.tokens)
        metrics.memory.set(event.memory)
        metrics.step_seconds.observe(seconds)
        metrics.last_step_time.set_to_current_time()
        # Exponential moving average, because the duration of a step varies with the length of its sequences.
        weight = 0.5 ** (1 / _RATE_HALF_LIFE_STEPS)
        self._rate = seconds if self._rate is None else weight * self._rate + (1 - weight) * seconds
        tokens_per_second = event.tokens / seconds if seconds > 0 else 0.0
        previous = self.progress.tokens_per_second
        smoothed = tokens_per_second if previous is None else weight * previous + (1 - weight) * tokens_per_second
        metrics.tokens_per_second.set(smoothed)
        self.update(
            activity="training",
            done=event.step,
            total=event.total,
            unit="steps",
            eta_seconds=(event.total - event.step) * self._rate,
            epoch=event.epoch,
            loss=event.loss,
            cross_entropy=event.cross_entropy,
            divergence=event.divergence,
            learning_rate=event.learning_rate,
            tokens_per_second=smoothed,
        )

    def on_validation(self, event: ValidationEvent) -> None:
        if event.loss is not None:
            self.metrics.validation_loss.set(event.loss)
            self.update(validation_loss=event.loss)
        for metric, value in event.metrics.items():
            self.metrics.validation_metric.labels(metric=metric).set(value)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self.metrics.evaluation.labels(model=event.model, metric=event.metric).set(event.value)

    def on_checkpoint(self, checkpoint: CheckpointRef) -> None:
        self.metrics.checkpoint_step.set(checkpoint.step)
        self.update(checkpoint=checkpoint)


class MonitorServer:
    """Serves the monitor over HTTP on a background thread.

    Raises:
        StageFailure: InternalError when the port is in use.
    """

    def __init__(self, monitor: StageMonitor, listen: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encoder(monitor.metrics.registry), content_type)
                elif self.path == "/progress":
                    body = monitor.progress.model_dump_json(exclude_none=True).encode()
                    self._answer(200, body, "application/json")
                else:
                    self._answer(404, b"not found\n", "text/plain")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Do not log requests: Prometheus and the operator poll every few seconds."""

        try:
            self._server = ThreadingHTTPServer((listen, port), Handler)
        except OSError as error:
            raise StageFailure(
                Reason.INTERNAL_ERROR, f"cannot open {listen}:{port} for /metrics: {error.strerror}; free the port"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
