"""Single objects and trees: read, write, look, delete."""

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
    """What ``local`` and ``remote`` both do with a parsed address."""

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
    return local if location.scheme == "file" else remote


def read_bytes(uri: str) -> bytes:
    """The content of the object at ``uri``.

    Raises:
        StageFailure: NotFound when there is none; PermissionDenied, Unavailable, BadConfiguration as for every call.
    """
    location = _object(uri)
    return backend(location).read(location)


def write_bytes(uri: str, data: bytes, if_absent: bool = False) -> None:
    """Write the object at ``uri``, at once and whole.

    A conditional write whose answer got lost is sent again and may meet its own object: on AlreadyExists, compare.

    Raises:
        AlreadyExists: ``if_absent`` and an object is there; it is left as it is. Of several writers exactly one wins.
        StageFailure: PermissionDenied, NotFound (no such bucket), DiskFull, Unavailable, BadConfiguration.
    """
    location = _object(uri)
    backend(location).write(location, data, if_absent)


def exists(uri: str) -> bool:
    """Whether an object (not a directory) is at ``uri``. A missing bucket is a failure, not an absent object."""
    location = _object(uri)
    return backend(location).size(location) is not None


def last_modified(uri: str) -> datetime | None:
    """When the object at ``uri`` was written, in UTC; None when there is none."""
    location = _object(uri)
    return backend(location).last_modified(location)


def list_files(uri: str) -> list[tuple[str, int]]:
    """Every object below ``uri``: relative path and size in bytes, sorted; empty when nothing is there."""
    location = parse(uri)
    return sorted(backend(location).files(location))


def delete_tree(uri: str) -> None:
    """Delete every object below ``uri``, manifests first, so that what is half deleted does not look complete.

    Nothing there is not an error. A whole bucket or disk is never deleted.
    """
    location = _object(uri)
    backend(location).delete_tree(location)


def check_writable(uri: str) -> None:
    """Write and delete a small object below ``uri``, to learn early that a result could not be stored there."""
    location = parse(uri)
    probe = location.child(f"{local.HIDDEN_PREFIX}probe-{secrets.token_hex(8)}")
    try:
        backend(probe).write(probe, b"probe", if_absent=False)
        backend(probe).delete(probe)
    except StageFailure as failure:
        # The person knows the directory, not the probe.
        raise StageFailure(failure.reason, failure.message.replace(probe.uri, location.uri)) from None


def _object(uri: str) -> Location:
    location = parse(uri)
    if not location.key:
        raise StageFailure(Reason.BAD_CONFIGURATION, f"{uri} names no object; add a path to it")
    return location
