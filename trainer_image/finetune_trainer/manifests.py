"""Publish directories with their manifest as the last file; fetch them and verify each file against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME, FileEntry, Manifest
from finetune_trainer import storage
from finetune_trainer.storage.errors import explained_path
from finetune_trainer.storage.location import parse
from finetune_trainer.storage.parallel import each
from finetune_trainer.storage.transfer import download_files, local_files

_HASH_AT_ONCE = 4


class TornDirectory(StageFailure):
    """A directory whose files do not match its manifest. ``file`` is the path of the first that differs, ``difference``
    the predicate about it."""

    def __init__(self, uri: str, file: str, difference: str) -> None:
        super().__init__(
            Reason.BAD_DATA,
            f"{uri} is incomplete or corrupt: {file} {difference}; delete the directory and run the job again",
        )
        self.uri = uri
        self.file = file
        self.difference = difference


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest of the directory at ``uri``; None when it has none, so that it is not complete.

    Raises:
        TornDirectory: The manifest is invalid.
        StageFailure: PermissionDenied, NotFound (no such bucket), Unavailable or BadConfiguration.
    """
    address = storage.join(uri, MANIFEST_NAME)
    if not storage.exists(address):
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(address))
    except ValidationError:
        raise TornDirectory(uri, MANIFEST_NAME, "is not a valid manifest") from None


def publish_directory(directory: Path, uri: str, provenance: Mapping[str, Any]) -> Manifest:
    """Upload every file of ``directory`` to ``uri``, then the manifest that marks the directory as complete.

    The call is idempotent for equal files and ``provenance``, so that a stage can be retried. A directory that another
    run has completed is not modified. A ``manifest.json`` at the top of ``directory`` is not uploaded.

    Raises:
        StageFailure: BadConfiguration when ``uri`` has a different manifest; otherwise as
            `storage.upload_directory`.
    """
    paths = [path for path in local_files(directory) if path != MANIFEST_NAME]
    present = read_manifest(uri)
    if present is not None:
        # The directory is complete: do not overwrite files that the manifest lists.
        return _same(Manifest(files=hash_files(directory, paths), provenance=dict(provenance)), present, uri)
    manifest = Manifest(files=storage.upload_directory(directory, uri, paths), provenance=dict(provenance))
    try:
        storage.write_bytes(storage.join(uri, MANIFEST_NAME), manifest.to_bytes(), if_absent=True)
    except storage.AlreadyExists:
        return _same(manifest, read_manifest(uri), uri)
    return manifest


def fetch_directory(uri: str, target: Path) -> Manifest:
    """Download the directory at ``uri`` into ``target`` and verify the size and sha256 of each file.

    The manifest is written to ``target`` last, so that it also marks the copy as complete. Files that the manifest
    does not list are not downloaded.

    Raises:
        TornDirectory: A file is missing or differs from the manifest.
        StageFailure: NotFound when there is no manifest; otherwise as `storage.download_directory`.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise StageFailure(
            Reason.NOT_FOUND,
            f"Cannot read {uri}: it has no {MANIFEST_NAME}, so the directory is incomplete or was deleted; run the "
            "job again",
        )
    location = parse(uri)
    present = dict(storage.list_files(uri))
    for entry in manifest.files:
        if entry.path not in present:
            raise TornDirectory(uri, entry.path, "is missing")
        if present[entry.path] != entry.size:
            raise TornDirectory(uri, entry.path, f"has {present[entry.path]} bytes instead of {entry.size}")
    download_files(location, [(entry.path, entry.size) for entry in manifest.files], target)
    fetched = hash_files(target, [entry.path for entry in manifest.files])
    for expected, actual in zip(manifest.files, fetched, strict=True):
        if actual != expected:
            (target / expected.path).unlink()
            raise TornDirectory(uri, expected.path, "does not match its sha256")
    storage.write_bytes(storage.join(target.absolute().as_uri(), MANIFEST_NAME), manifest.to_bytes())
    return manifest


def fetch_files(uri: str, manifest: Manifest, wanted: Callable[[str], bool], target: Path) -> None:
    """Download the files of a directory whose paths are ``wanted``, and verify them as `fetch_directory` does.

    Args:
        uri: The directory.
        manifest: Its manifest.
        wanted: Whether a file, by its relative path, is needed.
        target: Local directory for the files.

    Raises:
        TornDirectory: A file is missing or differs from the manifest.
        StageFailure: As functions of `storage`.
    """
    entries = {entry.path: entry for entry in manifest.files if wanted(entry.path)}
    for path in entries:
        address = storage.join(uri, path)
        if not storage.exists(address):
            raise TornDirectory(uri, path, "is missing")
        storage.download_file(address, target / path)
    for entry in hash_files(target, entries):
        if entry != entries[entry.path]:
            raise TornDirectory(uri, entry.path, "has other content than its manifest says")


def hash_files(directory: Path, paths: Iterable[str]) -> tuple[FileEntry, ...]:
    """Return the manifest entries of the local files ``paths``, relative to ``directory``, in their order.

    Raises:
        StageFailure: NotFound when a file does not exist; PermissionDenied or BadConfiguration.
    """

    def entry(relative: str) -> FileEntry:
        path = directory / relative
        with explained_path(path, "read"), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return FileEntry(path=relative, size=file.tell(), sha256=digest.hexdigest())

    return tuple(each(entry, paths, _HASH_AT_ONCE))


def _same(mine: Manifest, present: Manifest | None, uri: str) -> Manifest:
    if present is None or present.digest != mine.digest:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Another run has written to {uri} (its {MANIFEST_NAME} differs); use a different address for this run",
        )
    return mine
