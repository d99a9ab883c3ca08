"""``manifest.json``: what makes a directory in object storage complete, and an artifact's digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"


def _inside(path: str) -> str:
    """``path`` if it stays below the directory: a manifest is read from storage, and its paths become local files."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a path inside the directory")
    return path


class FileEntry(BaseModel):
    """One file of a directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, AfterValidator(_inside)] = Field(
        description="Path relative to the directory, with forward slashes."
    )
    size: int = Field(ge=0, description="Size in bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hex digest of the content.")


class Manifest(BaseModel):
    """The files of a complete directory, and where they come from.

    Written last and only if none is there, so a directory with a manifest is whole and belongs to one writer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[FileEntry, ...]
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="Spec, model revision, data digests, versions."
    )

    def to_bytes(self) -> bytes:
        """The bytes that are stored: sorted by path and key, so that equal content has an equal digest."""
        return _canonical({"files": self._entries(), "provenance": self.provenance})

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the stored bytes: the digest of the artifact."""
        return _digest(self.to_bytes())

    @property
    def content_digest(self) -> str:
        """``sha256:<hex>`` of the files alone: the same when somebody else, or another version, has made the same."""
        return _digest(_canonical(self._entries()))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def _entries(self) -> list[dict[str, Any]]:
        return [entry.model_dump() for entry in sorted(self.files, key=lambda entry: entry.path)]


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
