"""Prevents two runs from writing to the same revision directory, by a lock file ``revision.json`` with a heartbeat.

The directory belongs to one spec permanently. Another run of the same spec, such as a job that was deleted and applied
again, can take over the lock once its heartbeat is older than 60 s.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import StageConfig
from finetune_trainer import storage

HEARTBEAT_SECONDS = 15.0
STALE_AFTER_SECONDS = 60.0

log = logging.getLogger(__name__)


class Holder(BaseModel):
    """Content of ``revision.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    uid: str
    spec_digest: str
    host: str
    stage: str
    attempt: int
    heartbeat: float
    """Unix time of the last heartbeat in seconds; 0 after the holder has released the lock."""


class RevisionLock:
    """A context manager that holds the lock of a revision directory while a stage runs.

    Raises on entry:
        StageFailure: RevisionTaken when the directory belongs to another spec; BadConfiguration when another run holds
            the lock.
    """

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._uri = config.layout.lock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="revision-lock", daemon=True)

    def __enter__(self) -> RevisionLock:
        try:
            storage.write_bytes(self._uri, self._content(time.time()), if_absent=True)
        except storage.AlreadyExists:
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write(0.0)

    def _take_over(self) -> None:
        job, address = self._config.job, self._config.layout.uri
        try:
            holder = Holder.model_validate_json(storage.read_bytes(self._uri))
        except ValidationError:
            holder = None
        if holder is not None and holder.spec_digest != job.spec_digest:
            raise StageFailure(
                Reason.REVISION_TAKEN,
                f"{address} belongs to another spec, of an earlier job {job.namespace}/{job.name}; this job uses the "
                "next revision",
            )
        if holder is not None and holder.uid != job.uid and time.time() - holder.heartbeat < STALE_AFTER_SECONDS:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"another run, on host {holder.host} in stage {holder.stage}, is writing to {address}: wait until it "
                "has ended, or change metadata.name or spec.output.uri",
            )
        storage.write_bytes(self._uri, self._content(time.time()))

    def _content(self, heartbeat: float) -> bytes:
        config = self._config
        holder = Holder(
            uid=config.job.uid,
            spec_digest=config.job.spec_digest,
            host=socket.gethostname(),
            stage=config.stage,
            attempt=config.attempt,
            heartbeat=heartbeat,
        )
        return (json.dumps(holder.model_dump(), indent=2) + "\n").encode()

    def _write(self, heartbeat: float) -> None:
        try:
            storage.write_bytes(self._uri, self._content(heartbeat))
        except StageFailure as failure:
            # A missed heartbeat must not fail the stage: during a long outage its own requests fail.
            log.warning("cannot renew the lock on %s: %s", self._config.layout.uri, failure.message)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._write(time.time())
