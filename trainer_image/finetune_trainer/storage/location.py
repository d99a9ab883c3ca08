"""Addresses in object storage: parse, validate and join URIs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from finetune_api.failures import Reason, StageFailure

SCHEMES = ("file", "s3", "gs", "az")

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_WILDCARD = re.compile(r"[*?]")
_PATTERN_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_SIGNED = re.compile(r"[?&](sig|X-Amz-\w+|X-Goog-\w+)=", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A parsed address.

    ``bucket`` is the bucket or container, empty for ``file``. ``key`` has no leading or trailing slash; for ``file``
    it is the absolute path without its leading slash.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The address as text: percent-encoded for ``file``, with an unencoded key otherwise."""
        if self.scheme == "file":
            return self.path.as_uri()
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    @property
    def path(self) -> Path:
        """The local path of a ``file`` address."""
        return Path("/" + self.key)

    @property
    def name(self) -> str:
        """The last path segment."""
        return self.key.rpartition("/")[2]

    def child(self, relative: str) -> Location:
        """The address of ``relative`` below this one.

        Raises:
            StageFailure: BadConfiguration when ``relative`` is absolute or leaves this directory.
        """
        relative = checked_relative(relative, self.uri)
        return Location(self.scheme, self.bucket, f"{self.key}/{relative}" if self.key else relative)


def parse(uri: str) -> Location:
    """Parse ``uri``.

    Percent-encoding is decoded in ``file://`` addresses only.

    Raises:
        StageFailure: BadConfiguration when the scheme is unknown, or the address is malformed or contains credentials.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise _bad(f"{uri!r} is not a storage address; write it as s3://bucket/path or file:///path")
    scheme, rest = match.groups()
    bucket, _, key = rest.partition("/")
    if "@" in bucket or _SIGNED.search(rest):
        raise _bad(f"A {scheme}:// address contains credentials; remove them and use environment variables instead")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise _bad(f"{uri} has the unsupported scheme {scheme}://; use one of {known}")
    if scheme == "file":
        if bucket not in ("", "localhost"):
            raise _bad(f"{uri} has the host {bucket!r}; write a local path with three slashes, as in file:///{rest}")
        return Location("file", "", "/".join(_segments(unquote(key), uri)))
    if not bucket:
        raise _bad(f"{uri} has no bucket; write it as {scheme}://bucket/path")
    return Location(scheme, bucket, "/".join(_segments(key.strip("/"), uri, collapse=False)))


def join(uri: str, *parts: str) -> str:
    """Append path ``parts`` to ``uri``: ``join("s3://b/runs/", "a", "b/c")`` is ``s3://b/runs/a/b/c``.

    Raises:
        StageFailure: BadConfiguration when a part is absolute or leaves the directory.
    """
    location = parse(uri)
    for part in parts:
        if part:
            location = location.child(part)
    return location.uri


def literal_part(uri: str) -> tuple[str, str]:
    """The directory above the first wildcard (``*`` or ``?``) of ``uri``, and the pattern below it; empty without one.

    Raises:
        StageFailure: BadConfiguration as `parse`, or when the wildcard has no directory above it.
    """
    location = parse(uri)
    segments = location.key.split("/")
    first = next((index for index, segment in enumerate(segments) if _WILDCARD.search(segment)), None)
    if _WILDCARD.search(location.bucket) or (location.scheme == "file" and first == 0):
        raise _bad(f"{uri} has a wildcard in its first part; write the directory before the first wildcard")
    if first is None:
        return uri, ""
    directory = Location(location.scheme, location.bucket, "/".join(segments[:first]))
    return directory.uri, "/".join(segments[first:])


def without_wildcards(uri: str) -> str:
    """``uri``, or the directory above its first wildcard; any scheme."""
    before = _WILDCARD.split(uri, maxsplit=1)[0]
    return uri if before == uri else before.rpartition("/")[0]


def matches(path: str, pattern: str) -> bool:
    """Whether a relative ``path`` matches: ``*`` and ``?`` stand for characters of one segment, ``**`` for any."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(parts.get(piece) or re.escape(piece) for piece in _PATTERN_PIECE.findall(pattern))
    return re.fullmatch(expression, path, re.DOTALL) is not None


def checked_relative(relative: str, uri: str) -> str:
    """Return ``relative`` without a trailing slash, after checking that it stays below ``uri``.

    Paths from manifests are checked too, because storage is not trusted.

    Raises:
        StageFailure: BadConfiguration when the path is empty or absolute, or has an empty, ``.`` or ``..`` segment.
    """
    trimmed = relative.removesuffix("/")
    if not trimmed or any(segment in ("", ".", "..") for segment in trimmed.split("/")) or "\0" in trimmed:
        raise _bad(f"{relative!r} is not a path below {uri}; use a relative path without '.' and '..' segments")
    return trimmed


def _segments(path: str, uri: str, collapse: bool = True) -> list[str]:
    segments = path.split("/")
    if collapse or not path:
        segments = [segment for segment in segments if segment]
    if any(segment in ("", ".", "..") for segment in segments) or "\0" in path:
        raise _bad(f"{uri} has an empty, '.' or '..' path segment; remove it")
    return segments


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
