"""Copy files and directories between the local disk and storage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import FileEntry
from finetune_trainer.storage.access import backend
from finetune_trainer.storage.errors import explained_path
from finetune_trainer.storage.local import walk
from finetune_trainer.storage.location import Location, checked_relative, parse
from finetune_trainer.storage.parallel import each
from finetune_trainer.storage.remote import PARTS_AT_ONCE, RANGE

_FILES_AT_ONCE = 4


def upload_directory(
    directory: Path,
    uri: str,
    paths: Iterable[str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> tuple[FileEntry, ...]:
    """Upload files of ``directory`` below ``uri``, replacing existing objects.

    Each file is read once, in parts of 16 MiB, and hashed during the upload.

    Args:
        directory: A local directory.
        uri: Address of the target directory.
        paths: Relative paths with forward slashes; every file when None.
        on_bytes: Called with the number of bytes after each uploaded part, from several threads.

    Returns:
        The manifest entries of the files, in the order of ``paths``.

    Raises:
        StageFailure: NotFound (a file or the bucket), PermissionDenied, DiskFull, Unavailable or BadConfiguration.
    """
    location = parse(uri)
    chosen = local_files(directory) if paths is None else [checked_relative(path, str(directory)) for path in paths]
    files_at_once = min(_FILES_AT_ONCE, max(1, len(chosen)))

    def upload(relative: str) -> FileEntry:
        target = location.child(relative)
        size, sha256 = backend(target).upload(
            directory / relative, target, PARTS_AT_ONCE // files_at_once, on_bytes or _ignore
        )
        return FileEntry(path=relative, size=size, sha256=sha256)

    return tuple(each(upload, chosen, files_at_once))


def download_file(uri: str, target: Path) -> None:
    """Download the object at ``uri`` to ``target`` atomically, large objects in ranges."""
    location = parse(uri)
    backend(location).download(location, target)


def download_directory(uri: str, target: Path) -> list[tuple[str, int]]:
    """Download every object below ``uri`` into ``target``.

    Returns:
        The relative path and size in bytes of each object, sorted.

    Raises:
        StageFailure: NotFound when there are no objects; otherwise as `upload_directory`.
    """
    location = parse(uri)
    found = sorted(backend(location).files(location))
    if not found:
        raise _nothing_at(location)
    download_files(location, found, target)
    return found


def download_files(location: Location, files: Iterable[tuple[str, int]], target: Path) -> None:
    """Download ``files`` below ``location``: small files concurrently, large files one by one in concurrent ranges.

    Args:
        location: Address of the directory.
        files: Relative path and size in bytes of each file.
        target: A local directory.
    """
    listed = [(checked_relative(path, location.uri), size) for path, size in files]

    def download(file: tuple[str, int]) -> None:
        relative, size = file
        child = location.child(relative)
        backend(child).download(child, target / relative, known_size=size)

    each(download, [file for file in listed if file[1] <= RANGE], PARTS_AT_ONCE)
    for file in listed:
        if file[1] > RANGE:
            download(file)


def localise(uri: str, scratch: Path) -> Path:
    """Return a local path with the content of ``uri``: a file for an object, a directory for a tree.

    ``file://`` addresses are used in place. All others are downloaded below ``scratch``; an object takes precedence
    over a tree of the same name.

    Raises:
        StageFailure: NotFound when neither exists; otherwise as `upload_directory`.
    """
    location = parse(uri)
    if location.scheme == "file":
        with explained_path(location.path, "read"):
            location.path.stat()
        return location.path
    # The hash keeps addresses apart that end in the same name.
    target = scratch / hashlib.sha256(location.uri.encode()).hexdigest()[:12] / (location.name or location.bucket)
    if location.key and backend(location).size(location) is not None:
        download_file(uri, target)
    else:
        download_directory(uri, target)
    return target


def local_files(directory: Path) -> list[str]:
    """Relative paths of all files below a local directory, with forward slashes.

    Raises:
        StageFailure: NotFound when the directory does not exist; PermissionDenied or BadConfiguration.
    """
    with explained_path(directory, "read"):
        directory.stat()
        return list(walk(directory))


def _nothing_at(location: Location) -> StageFailure:
    return StageFailure(
        Reason.NOT_FOUND,
        f"Cannot read {location.uri}: it does not exist; correct the address, or run the stage that writes it",
    )


def _ignore(_: int) -> None:
    pass
