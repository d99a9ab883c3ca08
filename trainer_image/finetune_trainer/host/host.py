"""The host process of a stage: starts and monitors the workers, and reports the result of the stage.

It does not import torch. Therefore it serves /progress immediately, survives crashes of the workers, and completes the
upload of a checkpoint that they saved before a crash.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from finetune_api.events import (
    AliveEvent,
    CheckpointEvent,
    EvaluationEvent,
    Event,
    FailureEvent,
    ProgressEvent,
    ResultEvent,
    StepEvent,
    ValidationEvent,
    read_event,
)
from finetune_api.failures import LONGEST_WAIT, ExitCode, Reason, StageFailure
from finetune_api.stage import (
    CheckpointRef,
    Stage,
    StageConfig,
    StageError,
    StageReport,
    StageResult,
)
from finetune_trainer.certificates import trust_bundle
from finetune_trainer.checkpoints.upload import BUSY_NAME, CheckpointUploader, SavedCheckpoint
from finetune_trainer.host.inputs import fetch_train_inputs
from finetune_trainer.host.memory import out_of_memory_sentence
from finetune_trainer.host.monitor import MonitorServer, StageMonitor
from finetune_trainer.host.processes import WorkerProcess, signal_workers, start_workers, worker_index
from finetune_trainer.host.revision_lock import RevisionLock
from finetune_trainer.storage.credentials import use_secrets
from finetune_trainer.worker import failure_of

_POLL_SECONDS = 0.05
_ECHO_SECONDS = 2.0
"""Time to wait for the failure events of other ranks, before the host decides which rank failed first."""
_RESOLVE_SECONDS = 420.0
"""Longer than the operator lets a gang wait for a worker that has no node."""
_BEFORE_FIRST_STEP = "before the first step"

log = logging.getLogger("finetune_trainer")


class Host:
    """Runs one stage in one pod."""

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._workspace = Path(config.workspace)
        self._monitor = StageMonitor(config)
        self._workers: list[WorkerProcess] = []
        self._failures: list[tuple[int, FailureEvent]] = []
        self._result: StageResult | None = None
        self._saved: dict[int, list[CheckpointEvent]] = {}
        self._checkpoint: CheckpointRef | None = None
        self._uploader: CheckpointUploader | None = None
        self._stopping = threading.Event()
        self._fetching = False
        self._started = time.monotonic()

    def run(self) -> int:
        """Run the stage and write the termination message.

        Returns:
            The exit code.
        """
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            report = self._report(**self._run_stage())
        except BaseException as error:
            failure = failure_of(error, self._workspace)
            if failure is not error:
                log.exception("the stage failed")
            report = self._report(error=_error(failure, None))
        if report.error:
            log.error("%s: %s", report.error.reason, report.error.message)
        self._write(report)
        return report.exit_code

    def _run_stage(self) -> dict[str, Any]:
        config = self._config
        world = config.world
        log.info("%s, attempt %d: worker %d of %d", config.stage, config.attempt, worker_index() + 1, world.workers)
        use_secrets(config.spec, os.environ)
        try:
            self._workspace.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageFailure(
                Reason.PERMISSION_DENIED,
                f"cannot create the workspace {config.workspace} ({error.strerror}): check its permissions",
            ) from error
        trust_bundle(self._workspace)
        server = MonitorServer(self._monitor, config.listen, config.port)
        server.start()
        try:
            if worker_index() != 0:
                return self._run_workers()
            with RevisionLock(config):
                return self._run_workers()
        finally:
            server.stop()

    def _run_workers(self) -> dict[str, Any]:
        config = self._config
        if config.stage is Stage.TRAIN:
            self._uploader = self._start_uploader()
        config_path = self._workspace / "stage.json"
        config_path.write_text(config.model_dump_json(exclude_unset=True))
        self._workers = start_workers(config, config_path, self._on_line)
        try:
            if config.stage is Stage.TRAIN:
                self._fetch()
            elif self._stopping.is_set():
                signal_workers(self._workers, signal.SIGTERM)  # There were none when the host got it.
            return self._wait()
        finally:
            signal_workers(self._workers, signal.SIGKILL)
            for worker in self._workers:
                worker.process.wait()
                worker.reader.join()
            if self._uploader:
                is_broken = any(worker.process.returncode != ExitCode.DONE for worker in self._workers)
                self._uploader.drain(gang_is_broken=is_broken)

    def _fetch(self) -> None:
        """Fetch the inputs while the workers import torch and then wait for them; SIGTERM aborts the download."""
        config = self._config
        self._fetching = True
        try:
            if self._stopping.is_set():
                raise _stopped(_BEFORE_FIRST_STEP)
            self._monitor.update(activity="fetching model, data and checkpoint")
            if config.world.workers > 1:
                wait_until_resolvable(config.main_address, lambda activity: self._monitor.update(activity=activity))
            fetch_train_inputs(config, self._workspace)
        finally:
            self._fetching = False
        log.info("fetched model, data and checkpoint")

    def _start_uploader(self) -> CheckpointUploader:
        config = self._config
        uploader = CheckpointUploader(
            config.layout.checkpoints,
            keep=config.spec.training.checkpoint.keep,
            worker=worker_index(),
            workers=config.world.workers,
            busy=self._workspace / BUSY_NAME,
            on_complete=self._on_uploaded,
        )
        uploader.start()
        return uploader

    def _wait(self) -> dict[str, Any]:
        """Wait until all workers have succeeded or one has failed."""
        while True:
            if all(worker.process.poll() == ExitCode.DONE for worker in self._workers):
                for worker in self._workers:
                    worker.reader.join()
                return self._done()
            for worker in self._workers:
                code = worker.process.poll()
                if code == -signal.SIGTERM and self._stopping.is_set():
                    code = ExitCode.STOPPED  # The worker had no state to save yet.
                if code is not None and code != ExitCode.DONE:
                    return self._ended(worker, code)
            time.sleep(_POLL_SECONDS)

    def _done(self) -> dict[str, Any]:
        if worker_index() != 0:
            return {}
        if self._result is None:
            raise StageFailure(
                Reason.INTERNAL_ERROR, f"the {self._config.stage} stage ended without a result: see the log"
            )
        return {"result": self._result}

    def _ended(self, worker: WorkerProcess, code: int) -> dict[str, Any]:
        """The outcome of a gang in which ``worker`` exited with ``code``: the failure of the rank that failed first."""
        worker.reader.join()
        failures = [event for rank, event in self._failures if rank == worker.rank]
        if code == ExitCode.STOPPED and failures and not failures[0].hung:
            # Ranks that agreed to stop have all saved their part of the checkpoint; wait for the others to exit.
            for other in self._workers:
                other.process.wait()
                other.reader.join()
            uploader, self._uploader = self._uploader, None
            if uploader:
                uploader.drain()
                if uploader.failure:
                    return {"error": _error(uploader.failure, None)}
        rank, failure = self._first_cause(worker, code)
        return {"error": _error(failure, rank if self._config.stage is Stage.TRAIN else None)}

    def _first_cause(self, worker: WorkerProcess, code: int) -> tuple[int, StageFailure]:
        """The rank that failed first, and its failure.

        When a rank fails, the others fail too, because their connections to it break; the host may observe those
        failures first. A killed rank has priority over reported failures, and a specific reason over InternalError.
        """
        deadline = time.monotonic() + _ECHO_SECONDS
        while time.monotonic() < deadline and any(other.process.poll() is None for other in self._workers):
            time.sleep(_POLL_SECONDS)
        for other in self._workers:
            if (other.process.poll() or 0) < 0 and code != ExitCode.STOPPED:
                return other.rank, _unexplained(self._config.stage, other.rank, other.process.returncode)
        reported = sorted(self._failures, key=lambda failure: failure[1].reason is Reason.INTERNAL_ERROR)
        if reported:
            rank, event = reported[0]
            return rank, StageFailure(
                event.reason, event.message, retry_after=event.retry_after, progressed=event.progressed
            )
        return worker.rank, _unexplained(self._config.stage, worker.rank, code)

    def _on_line(self, rank: int, line: bytes) -> None:
        try:
            event = read_event(line)
        except ValidationError as error:
            log.warning("rank %d sent an invalid event (%s): %.200r", rank, error, line)
        else:
            self._on_event(rank, event)

    def _on_event(self, rank: int, event: Event) -> None:
        match event:
            case ProgressEvent() if self._stopping.is_set():
                self._monitor.update()  # It may have been on its way when the stage was asked to stop.
            case ProgressEvent():
                self._monitor.on_progress(event)
            case AliveEvent():
                self._monitor.update()
            case StepEvent():
                self._monitor.on_step(event)
            case ValidationEvent():
                self._monitor.on_validation(event)
            case EvaluationEvent():
                self._monitor.on_evaluation(event)
            case CheckpointEvent():
                self._on_saved(event)
            case ResultEvent():
                self._result = event.result
            case FailureEvent():
                self._failures.append((rank, event))

    def _on_saved(self, event: CheckpointEvent) -> None:
        """Start the upload of a checkpoint once all ranks of this pod have saved their part."""
        step = event.step
        events = self._saved.setdefault(step, [])
        events.append(event)
        if len(events) < self._config.world.processes_per_worker or self._uploader is None:
            return
        del self._saved[step]
        self._monitor.metrics.checkpoint_seconds.labels(phase="save").observe(max(saved.seconds for saved in events))
        self._uploader.submit(SavedCheckpoint(step, Path(event.directory), event.provenance, keep_also=event.keep_also))

    def _on_uploaded(self, checkpoint: CheckpointRef, seconds: float) -> None:
        self._monitor.metrics.checkpoint_seconds.labels(phase="upload").observe(seconds)
        self._monitor.on_checkpoint(checkpoint)
        self._checkpoint = checkpoint

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            self._monitor.update(activity="stopping")
            signal_workers(self._workers, signal.SIGTERM)
            if self._fetching:
                raise _stopped(_BEFORE_FIRST_STEP)

    def _report(self, **outcome: Any) -> StageReport:
        return StageReport(
            stage=self._config.stage,
            attempt=self._config.attempt,
            seconds=round(time.monotonic() - self._started, 3),
            checkpoint=self._checkpoint,
            **outcome,
        )

    def _write(self, report: StageReport) -> None:
        message = report.to_termination_message()
        path = Path(self._config.termination_message_path)
        try:
            # Written in place: in a pod the kubelet has mounted this file, so that it cannot be replaced.
            path.write_bytes(message)
        except OSError as error:
            log.error("cannot write the termination message to %s: %s", path, error.strerror)


def _error(failure: StageFailure, rank: int | None) -> StageError:
    wait = None if failure.retry_after is None else min(math.ceil(failure.retry_after), LONGEST_WAIT)
    return StageError(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code,
        rank=rank,
        retry_after_seconds=wait,
        progressed=failure.progressed,
    )


def _stopped(when: str) -> StageFailure:
    return StageFailure(Reason.STOPPED, f"stopped on request, {when}")


def _unexplained(stage: Stage, rank: int, code: int) -> StageFailure:
    """The failure of a worker that exited without a failure event."""
    if code == ExitCode.STOPPED:
        return _stopped(_BEFORE_FIRST_STEP if stage is Stage.TRAIN else "and starts over when the job resumes")
    if code >= 0:
        return StageFailure(Reason.INTERNAL_ERROR, f"rank {rank} exited with code {code}: see the log")
    number = -code
    sentence = out_of_memory_sentence()
    if number == signal.SIGKILL and sentence:
        return StageFailure(Reason.OUT_OF_MEMORY, f"rank {rank} was killed: {sentence}")
    name = signal.Signals(number).name
    return StageFailure(Reason.KILLED, f"rank {rank} was killed by {name}; the job resumes from its newest checkpoint")


def wait_until_resolvable(host: str, report: Callable[[str], None]) -> None:
    """Wait until the host name of worker 0 resolves, because torch does not retry and DNS records appear with a delay.

    Args:
        host: The host name.
        report: Called with the activity to show while waiting.

    Raises:
        StageFailure: Unavailable, after seven minutes.
    """
    deadline = time.monotonic() + _RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            report(f"waiting for the address of worker 0, {host}")  # Repeated, because rank 0 also reports activities.
            if time.monotonic() > deadline:
                raise StageFailure(
                    Reason.UNAVAILABLE,
                    f"the address of worker 0, {host}, does not resolve ({error.strerror}): check the cluster DNS",
                ) from error
            time.sleep(0.5)
