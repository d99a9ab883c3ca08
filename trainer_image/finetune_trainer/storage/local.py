"""Backend for ``file://``: a directory tree with the semantics of an object store.

Writes are atomic and durable: a file is visible only when complete, and is synced to disk when the call returns.
obstore's LocalStore (0.12, traced) does not fsync and rejects names that end in ``#1``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from finetune_api.manifest import MANIFEST_NAME
from finetune_trainer.storage.errors import AlreadyExists, explained, explained_path
from finetune_trainer.storage.location import Location

HIDDEN_PREFIX = ".finetune-tmp-"
"""Prefix of temporary files, which are never listed, uploaded or downloaded."""

_CHUNK = 1 << 20


def read(location: Location) -> bytes:
    with explained(location, "read"):
        return location.path.read_bytes()


def write(location: Location, data: bytes, if_absent: bool) -> None:
    with explained(location, "write"):
        try:
            with atomic_file(location.path, if_absent=if_absent, durable=True) as file:
                file.write(data)
        except FileExistsError:
            if location.path.is_file():
                raise AlreadyExists(location.uri) from None
            raise


def size(location: Location) -> int | None:
    with explained(location, "read"):
        return location.path.stat().st_size if location.path.is_file() else None


def last_modified(location: Location) -> datetime | None:
    with explained(location, "read"):
        return datetime.fromtimestamp(location.path.stat().st_mtime, UTC) if location.path.is_file() else None


def files(location: Location) -> list[tuple[str, int]]:
    with explained(location, "list"):
        return [(relative, (location.path / relative).stat().st_size) for relative in walk(location.path)]


def delete(location: Location) -> None:
    with explained(location, "delete"):
        location.path.unlink(missing_ok=True)


def delete_tree(location: Location) -> None:
    with explained(location, "delete"):
        for manifest in location.path.rglob(MANIFEST_NAME):
            manifest.unlink()
        if location.path.is_dir():
            shutil.rmtree(location.path)


def upload(source: Path, location: Location, parts: int, on_bytes: Callable[[int], None]) -> tuple[int, str]:  # noqa: ARG001
    digest = hashlib.sha256()
    count = 0
    with explained_path(source, "read"):
        input_file = source.open("rb")
    with input_file, explained(location, "write"), atomic_file(location.path, durable=True) as file:
        while chunk := input_file.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            count += len(chunk)
            on_bytes(len(chunk))
    return count, digest.hexdigest()


def download(location: Location, target: Path, known_size: int | None = None) -> None:  # noqa: ARG001
    with explained(location, "read"):
        input_file = location.path.open("rb")
    with input_file, explained_path(target, "write"), atomic_file(target) as file:
        shutil.copyfileobj(input_file, file, _CHUNK)


def walk(directory: Path) -> Iterator[str]:
    """Relative paths of the files below ``directory``, sorted within each level; none when it does not exist.

    Symbolic links to files count as files, as in the cache of huggingface_hub; links to directories are not followed.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    for folder, folders, names in os.walk(directory, onerror=fail):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(HIDDEN_PREFIX) and path.is_file():
                yield path.relative_to(directory).as_posix()


@contextmanager
def atomic_file(target: Path, if_absent: bool = False, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing; rename it to ``target`` on success and delete it on an exception.

    Missing parent directories are created.

    Args:
        target: Path of the final file.
        if_absent: Raise FileExistsError if ``target`` exists at the end; of concurrent writers exactly one succeeds.
        durable: Sync the file to disk before the rename, and its directory afterwards.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{HIDDEN_PREFIX}{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if if_absent:
            os.link(unfinished, target)
        else:
            unfinished.replace(target)
        if durable:
            _sync_directory(target.parent)
    finally:
        with suppress(OSError):  # It was renamed, or an earlier error is already being raised.
            unfinished.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
