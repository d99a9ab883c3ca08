"""Checkpoints in object storage: uploaded in the background of training, and complete once they have a manifest.

Layout: ``<revision>/checkpoints/step-00000200/…``. With several workers, each uploads the files of its ranks and lists
them in ``parts/worker-<index>.json``; worker 0 merges these lists into the manifest.
"""

from __future__ import annotations

import json
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.failures import StageFailure
from finetune_api.layout import checkpoint_name, checkpoint_step
from finetune_api.manifest import MANIFEST_NAME, FileEntry, Manifest
from finetune_api.stage import CheckpointRef
from finetune_trainer import storage
from finetune_trainer.manifests import TornDirectory, fetch_directory

BUSY_NAME = "uploading"
"""File in the workspace that exists during the upload of a checkpoint."""
_PARTS_POLL_SECONDS = 1.0
_PARTS_TIMEOUT_SECONDS = 900.0
_BROKEN_PARTS_TIMEOUT_SECONDS = 30.0

log = logging.getLogger(__name__)


def complete_checkpoints(checkpoints_uri: str) -> list[CheckpointRef]:
    """All checkpoints that have a manifest, oldest first."""
    return [
        CheckpointRef(step=step, uri=f"{checkpoints_uri}/{checkpoint_name(step)}")
        for step, complete in sorted(stored_checkpoints(checkpoints_uri).items())
        if complete
    ]


def stored_checkpoints(checkpoints_uri: str) -> dict[int, bool]:
    """The steps of all stored checkpoints, and whether each is complete, i.e. has a manifest."""
    found: dict[int, bool] = {}
    for path, _ in storage.list_files(checkpoints_uri):
        name, _, rest = path.partition("/")
        step = checkpoint_step(name)
        if step is not None and rest:
            found[step] = found.get(step, False) or rest == MANIFEST_NAME
    return found


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint on local disk."""

    ref: CheckpointRef
    directory: Path
    provenance: dict[str, Any]


def fetch_newest(checkpoints_uri: str, scratch: Path) -> FetchedCheckpoint | None:
    """Download the newest valid checkpoint into ``scratch``; skip those whose files do not match their manifest.

    Returns:
        The checkpoint; None when there is no valid one.
    """
    for ref in reversed(complete_checkpoints(checkpoints_uri)):
        directory = scratch / checkpoint_name(ref.step)
        try:
            manifest = fetch_directory(ref.uri, directory)
        except TornDirectory as torn:
            log.warning("skipping the checkpoint of step %d: %s", ref.step, torn.message)
            shutil.rmtree(directory, ignore_errors=True)
            continue
        return FetchedCheckpoint(ref, directory, dict(manifest.provenance))
    return None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that all ranks of this worker have saved to local disk."""

    step: int
    directory: Path
    provenance: dict[str, Any]
    keep_also: int | None
    """Step of the best checkpoint so far, which is kept regardless of its age; None without early stopping."""


class CheckpointUploader:
    """Uploads checkpoints one at a time on a background thread, and deletes old ones.

    The file ``busy`` exists during an upload. The ranks check it and agree to skip a checkpoint rather than fill the
    disk or wait for the network.

    Args:
        checkpoints_uri: Address of the directory of all checkpoints.
        keep: Number of newest checkpoints to keep.
        worker: Index of this worker.
        workers: Number of workers.
        busy: Local path of the marker file.
        on_complete: Called with each complete checkpoint and the duration of its upload in seconds.
    """

    def __init__(
        self,
        checkpoints_uri: str,
        *,
        keep: int,
        worker: int,
        workers: int,
        busy: Path,
        on_complete: Callable[[CheckpointRef, float], None],
    ) -> None:
        self._uri = checkpoints_uri
        self._keep = keep
        self._worker = worker
        self._workers = workers
        self._busy = busy
        self._on_complete = on_complete
        self._queue: queue.Queue[SavedCheckpoint | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._parts_seconds = _PARTS_TIMEOUT_SECONDS
        self._kept_some = False
        self.failure: StageFailure | None = None
        """The error of the last upload; None when it succeeded."""

    def start(self) -> None:
        self._thread.start()

    def submit(self, saved: SavedCheckpoint) -> None:
        """Queue a checkpoint; its local directory is deleted after the upload."""
        self._busy.touch()
        self._queue.put(saved)

    def drain(self, gang_is_broken: bool = False) -> None:
        """Wait until every submitted checkpoint is uploaded or has failed.

        In a broken gang another worker may have terminated without uploading its part, so the wait for parts is short.
        """
        if gang_is_broken:
            self._parts_seconds = _BROKEN_PARTS_TIMEOUT_SECONDS
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (saved := self._queue.get()) is not None:
            started = time.monotonic()
            try:
                self._upload(saved)
            except StageFailure as failure:
                self.failure = failure
                log.warning("cannot upload the checkpoint of step %d: %s", saved.step, failure.message)
            else:
                self.failure = None
                ref = CheckpointRef(step=saved.step, uri=f"{self._uri}/{checkpoint_name(saved.step)}")
                self._on_complete(ref, time.monotonic() - started)
            finally:
                shutil.rmtree(saved.directory, ignore_errors=True)
                if self._queue.empty():
                    self._busy.unlink(missing_ok=True)

    def _upload(self, saved: SavedCheckpoint) -> None:
        uri = f"{self._uri}/{checkpoint_name(saved.step)}"
        if storage.exists(storage.join(uri, MANIFEST_NAME)):
            return  # Already uploaded: a run that resumed from an older checkpoint repeats the same step.
        files = storage.upload_directory(saved.directory, uri)
        if self._workers > 1:
            part = json.dumps([entry.model_dump() for entry in files]).encode()
            storage.write_bytes(f"{uri}/parts/worker-{self._worker}.json", part)
            if self._worker != 0:
                return
            files = self._gather(uri)
        manifest = Manifest(files=files, provenance=saved.provenance)
        storage.write_bytes(storage.join(uri, MANIFEST_NAME), manifest.to_bytes(), if_absent=True)
        self._remove_old(saved.keep_also)

    def _gather(self, uri: str) -> tuple[FileEntry, ...]:
        since = time.monotonic()
        entries: dict[str, FileEntry] = {}
        for worker in range(self._workers):
            part = f"{uri}/parts/worker-{worker}.json"
            while not storage.exists(part):
                if time.monotonic() - since > self._parts_seconds:
                    missing = f"was not uploaded within {self._parts_seconds:.0f} s"
                    raise TornDirectory(uri, f"parts/worker-{worker}.json", missing)
                time.sleep(_PARTS_POLL_SECONDS)
            for entry in json.loads(storage.read_bytes(part)):
                entries[entry["path"]] = FileEntry.model_validate(entry)
        return tuple(entries.values())

    def _remove_old(self, keep_also: int | None) -> None:
        """Delete complete checkpoints except the newest ``keep``; manifests first, so that none counts as complete."""
        for ref in complete_checkpoints(self._uri)[: -self._keep]:
            if ref.step != keep_also:
                self._delete(ref.uri)

    def _delete(self, uri: str) -> None:
        """Delete a checkpoint; one that cannot be deleted does not make the upload of the newest a failure."""
        try:
            storage.delete_tree(uri)
        except StageFailure as failure:
            if not self._kept_some:
                log.warning("%s; it stays", failure.message)
            self._kept_some = True
