"""``manifest.json``: marks a directory in object storage as complete, and defines the digest of an artifact."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"


def _inside(path: str) -> str:
    """Return ``path`` if it is inside the directory, because paths of a stored manifest become local paths."""
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
    """The files of a complete directory, and their provenance.

    A manifest is written last, and only if none exists. A directory with a manifest is therefore complete and was
    written by a single run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[FileEntry, ...]
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="Spec, model revision, data digests, versions."
    )

    def to_bytes(self) -> bytes:
        """The bytes to store, sorted by path and key, so that equal content has an equal digest."""
        return _canonical({"files": self._entries(), "provenance": self.provenance})

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the stored bytes: the digest of the artifact."""
        return _digest(self.to_bytes())

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(entry.size for entry in self.files)

    def _entries(self) -> list[dict[str, Any]]:
        return [entry.model_dump() for entry in sorted(self.files, key=lambda entry: entry.path)]


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
