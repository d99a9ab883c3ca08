"""Keeps two runs from writing to one place: ``revision.json`` in the directory of a revision.

It says whose the directory is and, by a heartbeat, whether somebody is writing there now. The directory stays that of
one spec for ever; another run of the same spec may carry it on once the heartbeat is old, such as a job that was
deleted and applied again.
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
    """Unix time of the last sign of life, in seconds; 0 when the holder has left."""


class RevisionLock:
    """Holds the directory of a revision while a stage runs; a context manager.

    Raises on entry:
        StageFailure: RevisionTaken when the directory belongs to another spec, BadConfiguration when another run is
            writing there.
    """

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._uri = f"{config.revision_uri}/revision.json"
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
        job, address = self._config.job, self._config.revision_uri
        try:
            holder = Holder.model_validate_json(storage.read_bytes(self._uri))
        except ValidationError:
            holder = None
        if holder is not None and holder.spec_digest != job.spec_digest:
            raise StageFailure(
                Reason.REVISION_TAKEN,
                f"{address} is that of another spec, of an earlier {job.namespace}/{job.name}; this one takes the next "
                "revision",
            )
        if holder is not None and holder.uid != job.uid and time.time() - holder.heartbeat < STALE_AFTER_SECONDS:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"another run, on {holder.host} in stage {holder.stage}, is writing to {address}: wait until it has "
                "ended, "
                "or change metadata.name or spec.output.uri",
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
            # The work itself must not fail for a heartbeat: if storage is away for long, the work will notice.
            log.warning("cannot renew the claim on %s: %s", self._config.revision_uri, failure.message)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._write(time.time())
