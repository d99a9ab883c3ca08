"""Prevents two runs from writing to the same revision directory, by a lock file ``revision.json`` with a heartbeat.

The directory belongs to one spec permanently, and to the training that it uses. Another run of the same spec, such as a
job that was deleted and applied again, can take over the lock once its heartbeat is older than 60 s. A revision that
uses the training of an earlier one also holds the lock of that directory.
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
    training_revision: int
    host: str
    stage: str
    attempt: int
    heartbeat: float
    """Unix time of the last heartbeat in seconds; 0 after the holder has released the lock."""


def read_holder(uri: str) -> Holder | None:
    """The content of the lock file at ``uri``; None if there is none, or it is not valid.

    Raises:
        StageFailure: The failures of storage.
    """
    try:
        return Holder.model_validate_json(storage.read_bytes(uri)) if storage.exists(uri) else None
    except ValidationError:
        return None


class RevisionLock:
    """A context manager that holds the lock of a revision directory while a stage runs.

    Raises on entry:
        StageFailure: RevisionTaken when the directory belongs to another spec or uses another training;
            BadConfiguration when another run holds the lock.
    """

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._held: dict[str, Holder] = {}
        """The content of each lock file that this process holds, by address."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="revision-lock", daemon=True)

    def __enter__(self) -> RevisionLock:
        config, layout = self._config, self._config.layout
        own = Holder(
            uid=config.job.uid,
            spec_digest=config.job.spec_digest,
            training_revision=config.job.training_revision,
            host=socket.gethostname(),
            stage=config.stage,
            attempt=config.attempt,
            heartbeat=time.time(),
        )
        self._hold(layout.lock, layout.uri, own)
        if layout.training_lock != layout.lock:
            # That directory belongs to the spec of the earlier revision.
            earlier = read_holder(layout.training_lock)
            spec = earlier.spec_digest if earlier else own.spec_digest
            belongs = {"spec_digest": spec, "training_revision": config.job.training_revision}
            self._hold(layout.training_lock, layout.training_uri, own.model_copy(update=belongs))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write(0.0)

    def _hold(self, uri: str, directory: str, own: Holder) -> None:
        try:
            storage.write_bytes(uri, _encoded(own), if_absent=True)
        except storage.AlreadyExists:
            self._check(directory, own, read_holder(uri))
            storage.write_bytes(uri, _encoded(own))
        self._held[uri] = own

    def _check(self, directory: str, own: Holder, holder: Holder | None) -> None:
        """Check that this run may take over the lock of ``directory`` from ``holder``."""
        if holder is None:
            return
        job = self._config.job
        if (holder.spec_digest, holder.training_revision) != (own.spec_digest, own.training_revision):
            raise StageFailure(
                Reason.REVISION_TAKEN,
                f"{directory} belongs to another spec, of an earlier job {job.namespace}/{job.name}; this job uses the "
                "next revision",
            )
        if holder.uid != job.uid and time.time() - holder.heartbeat < STALE_AFTER_SECONDS:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"another run, on host {holder.host} in stage {holder.stage}, is writing to {directory}: wait until it "
                "has ended, or change metadata.name or spec.output.uri",
            )

    def _write(self, heartbeat: float) -> None:
        for uri, holder in self._held.items():
            try:
                storage.write_bytes(uri, _encoded(holder.model_copy(update={"heartbeat": heartbeat})))
            except StageFailure as failure:
                # A missed heartbeat must not fail the stage: during a long outage its own requests fail.
                log.warning("cannot renew the lock %s: %s", uri, failure.message)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._write(time.time())


def _encoded(holder: Holder) -> bytes:
    return (json.dumps(holder.model_dump(), indent=2) + "\n").encode()
