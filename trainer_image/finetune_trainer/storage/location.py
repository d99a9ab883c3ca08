"""Addresses in object storage: what a URI names, and how one is made from another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from finetune_api.failures import Reason, StageFailure

SCHEMES = ("file", "s3", "gs", "az")

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_SIGNED = re.compile(r"[?&](sig|X-Amz-\w+|X-Goog-\w+)=", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A parsed address.

    ``bucket`` is the bucket or container, empty for ``file``. ``key`` has no slash at either end; for ``file`` it is
    the absolute path without its first slash.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The address as text. A ``file`` address is percent-encoded, as file URIs are; a key is written as it is."""
        if self.scheme == "file":
            return self.path.as_uri()
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    @property
    def path(self) -> Path:
        """The local path of a ``file`` address."""
        return Path("/" + self.key)

    @property
    def name(self) -> str:
        """The last segment."""
        return self.key.rpartition("/")[2]

    def child(self, relative: str) -> Location:
        """The address of ``relative``, a path with forward slashes below this one."""
        relative = checked_relative(relative, self.uri)
        return Location(self.scheme, self.bucket, f"{self.key}/{relative}" if self.key else relative)


def parse(uri: str) -> Location:
    """The location ``uri`` names.

    Keys are taken as they are written, except in ``file://``, where percent-encoding is undone.

    Raises:
        StageFailure: BadConfiguration, when the scheme is unknown or the address is malformed or carries credentials.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise _bad(f"{uri!r} is not a storage address; write it as s3://bucket/path or file:///path")
    scheme, rest = match.groups()
    bucket, _, key = rest.partition("/")
    if "@" in bucket or _SIGNED.search(rest):
        raise _bad(f"A {scheme}:// address carries credentials; take them out and give them in the environment")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise _bad(f"{uri} has the unknown scheme {scheme}://; use one of {known}")
    if scheme == "file":
        if bucket not in ("", "localhost"):
            raise _bad(f"{uri} names the host {bucket!r}; a local path needs three slashes, as in file:///{rest}")
        return Location("file", "", "/".join(_segments(unquote(key), uri)))
    if not bucket:
        raise _bad(f"{uri} names no bucket; write it as {scheme}://bucket/path")
    return Location(scheme, bucket, "/".join(_segments(key.strip("/"), uri, collapse=False)))


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` below it: ``join("s3://b/runs/", "a", "b/c")`` is ``s3://b/runs/a/b/c``.

    Raises:
        StageFailure: BadConfiguration, when a part is absolute or leaves the directory.
    """
    location = parse(uri)
    for part in parts:
        if part:
            location = location.child(part)
    return location.uri


def checked_relative(relative: str, uri: str) -> str:
    """``relative``, or a failure when it is not a plain path below ``uri``: no manifest is trusted with that."""
    trimmed = relative.removesuffix("/")
    if not trimmed or any(segment in ("", ".", "..") for segment in trimmed.split("/")) or "\0" in trimmed:
        raise _bad(f"{relative!r} is not a path below {uri}; use a relative path without '.' and '..'")
    return trimmed


def _segments(path: str, uri: str, collapse: bool = True) -> list[str]:
    segments = path.split("/")
    if collapse or not path:
        segments = [segment for segment in segments if segment]
    if any(segment in ("", ".", "..") for segment in segments) or "\0" in path:
        raise _bad(f"{uri} has an empty, '.' or '..' segment; write the path without them")
    return segments


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
