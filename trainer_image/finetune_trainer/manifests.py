"""Complete directories: published with their manifest last, fetched with every file checked against it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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
    """A directory whose files are not those of its manifest. ``file`` is the path of the first that differs."""

    def __init__(self, uri: str, file: str, difference: str) -> None:
        super().__init__(
            Reason.BAD_DATA,
            f"{uri} is torn: {file} {difference}; delete the directory and start the job anew, which makes it again",
        )
        self.uri = uri
        self.file = file


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of the directory at ``uri``; None when it is not complete.

    Raises:
        TornDirectory: The manifest is not one.
        StageFailure: PermissionDenied, NotFound (no such bucket), Unavailable, BadConfiguration.
    """
    address = storage.join(uri, MANIFEST_NAME)
    if not storage.exists(address):
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(address))
    except ValidationError:
        raise TornDirectory(uri, MANIFEST_NAME, "is not a manifest") from None


def publish_directory(directory: Path, uri: str, provenance: Mapping[str, Any]) -> Manifest:
    """Upload every file of ``directory`` to ``uri`` and make it complete with a manifest, written last.

    A ``manifest.json`` at the top of ``directory`` is left out. Doing it again with equal files and ``provenance``
    changes nothing, so a stage can be retried; a directory that another run has completed is not touched.

    Raises:
        StageFailure: BadConfiguration when a different manifest is there; otherwise as for uploads.
    """
    paths = [path for path in local_files(directory) if path != MANIFEST_NAME]
    present = read_manifest(uri)
    if present is not None:
        # Nothing is uploaded over files that a manifest vouches for.
        return _same(Manifest(files=hash_files(directory, paths), provenance=dict(provenance)), present, uri)
    manifest = Manifest(files=storage.upload_directory(directory, uri, paths), provenance=dict(provenance))
    try:
        storage.write_bytes(storage.join(uri, MANIFEST_NAME), manifest.to_bytes(), if_absent=True)
    except storage.AlreadyExists:
        return _same(manifest, read_manifest(uri), uri)
    return manifest


def fetch_directory(uri: str, target: Path) -> Manifest:
    """Download the complete directory at ``uri`` into ``target`` and check every file's size and sha256.

    The manifest is written into ``target`` last, so the copy is complete in the same sense. Files that ``uri`` holds
    beside those of its manifest are not fetched.

    Raises:
        TornDirectory: A file is missing or differs from the manifest.
        StageFailure: NotFound when there is no manifest; otherwise as for downloads.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise StageFailure(
            Reason.NOT_FOUND,
            f"Cannot read {uri}: it has no {MANIFEST_NAME}, so it was not completed, or has been deleted; start "
            "the job anew, which makes it again",
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
            raise TornDirectory(uri, expected.path, "has other content than its manifest says")
    storage.write_bytes(storage.join(target.absolute().as_uri(), MANIFEST_NAME), manifest.to_bytes())
    return manifest


def hash_files(directory: Path, paths: Iterable[str]) -> tuple[FileEntry, ...]:
    """The manifest entries of local files, in the order of ``paths``, relative to ``directory``."""

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
            f"Another run has written to {uri} (its {MANIFEST_NAME} differs); give this run an address of its own",
        )
    return mine
