"""``file://``: a directory tree that behaves like an object store.

Written here and not by obstore's LocalStore, which (0.12, traced) does not fsync and refuses names that end in ``#1``.
A file appears whole or not at all, and is on the disk when the call returns.
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
"""Names of unfinished files begin so; they are never listed, uploaded or downloaded."""

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
        opened = source.open("rb")
    with opened, explained(location, "write"), atomic_file(location.path, durable=True) as file:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
            count += len(chunk)
            on_bytes(len(chunk))
    return count, digest.hexdigest()


def download(location: Location, target: Path, known_size: int | None = None) -> None:  # noqa: ARG001
    with explained(location, "read"):
        opened = location.path.open("rb")
    with opened, explained_path(target, "write"), atomic_file(target) as file:
        shutil.copyfileobj(opened, file, _CHUNK)


def walk(directory: Path) -> Iterator[str]:
    """Relative paths of the files below ``directory``, sorted a level at a time; none when it does not exist.

    Links to files count as files, as in a model cache; links to directories are not entered.
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
    """A file for writing that becomes ``target`` when the block ends well, and leaves no trace when it does not.

    Directories above it are made. ``durable`` puts it on the disk before it appears. ``if_absent`` raises
    FileExistsError when ``target`` is there by then; of several writers exactly one wins.
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
        with suppress(OSError):  # it is the target by now, or the first error is the one to tell
            unfinished.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
