"""Read, write, stat, list and delete objects and directory trees."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.storage import local, remote
from finetune_trainer.storage.location import Location, parse


class Backend(Protocol):
    """Operations on a parsed address that the modules ``local`` and ``remote`` implement."""

    def read(self, location: Location) -> bytes: ...
    def write(self, location: Location, data: bytes, if_absent: bool) -> None: ...
    def size(self, location: Location) -> int | None: ...
    def last_modified(self, location: Location) -> datetime | None: ...
    def files(self, location: Location) -> list[tuple[str, int]]: ...
    def delete(self, location: Location) -> None: ...
    def delete_tree(self, location: Location) -> None: ...
    def upload(
        self, source: Path, location: Location, parts: int, on_bytes: Callable[[int], None]
    ) -> tuple[int, str]: ...
    def download(self, location: Location, target: Path, known_size: int | None = None) -> None: ...


def backend(location: Location) -> Backend:
    """The module that serves the scheme of ``location``."""
    return local if location.scheme == "file" else remote


def read_bytes(uri: str) -> bytes:
    """Return the content of the object at ``uri``.

    Raises:
        StageFailure: NotFound when the object does not exist; PermissionDenied, Unavailable or BadConfiguration, as
            every function of this package.
    """
    location = _object(uri)
    return backend(location).read(location)


def write_bytes(uri: str, data: bytes, if_absent: bool = False) -> None:
    """Write the object at ``uri`` atomically.

    A conditional write is retried when its response is lost, and the retry can find the object of the first attempt.
    After AlreadyExists, compare the content.

    Raises:
        AlreadyExists: ``if_absent`` is set and the object exists; it is unchanged. Of concurrent writers exactly one
            succeeds.
        StageFailure: PermissionDenied, NotFound (no such bucket), DiskFull, Unavailable or BadConfiguration.
    """
    location = _object(uri)
    backend(location).write(location, data, if_absent)


def exists(uri: str) -> bool:
    """Whether ``uri`` is an object, not a directory.

    Raises:
        StageFailure: NotFound when the bucket does not exist; otherwise as `read_bytes`.
    """
    location = _object(uri)
    return backend(location).size(location) is not None


def last_modified(uri: str) -> datetime | None:
    """The modification time of the object at ``uri`` in UTC; None when the object does not exist."""
    location = _object(uri)
    return backend(location).last_modified(location)


def list_files(uri: str) -> list[tuple[str, int]]:
    """The relative path and size in bytes of every object below ``uri``, sorted; empty when there are none."""
    location = parse(uri)
    return sorted(backend(location).files(location))


def delete_tree(uri: str) -> None:
    """Delete every object below ``uri``, if any.

    Manifests are deleted first, so that a partially deleted directory does not count as complete.

    Raises:
        StageFailure: BadConfiguration when ``uri`` is a whole bucket or the root directory; otherwise as `write_bytes`.
    """
    location = _object(uri)
    backend(location).delete_tree(location)


def check_writable(uri: str) -> None:
    """Check that ``uri`` is writable: write and delete a small object below it.

    Raises:
        StageFailure: As `write_bytes`.
    """
    location = parse(uri)
    probe = location.child(f"{local.HIDDEN_PREFIX}probe-{secrets.token_hex(8)}")
    try:
        backend(probe).write(probe, b"probe", if_absent=False)
        backend(probe).delete(probe)
    except StageFailure as failure:
        # The user knows the directory, not the name of the probe.
        raise StageFailure(failure.reason, failure.message.replace(probe.uri, location.uri)) from None


def _object(uri: str) -> Location:
    location = parse(uri)
    if not location.key:
        raise StageFailure(Reason.BAD_CONFIGURATION, f"{uri} has no path; add one to the address")
    return location
