"""``manifest.json``: equal content has an equal digest, and all paths are inside the directory."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from finetune_api.manifest import FileEntry, Manifest


def entry(path: str, size: int = 1) -> FileEntry:
    return FileEntry(path=path, size=size, sha256="0" * 64)


def test_the_digest_is_that_of_the_stored_bytes_and_never_changes() -> None:
    manifest = Manifest(files=(entry("a/b.json"),), provenance={"model": "é"})
    assert manifest.digest == "sha256:" + hashlib.sha256(manifest.to_bytes()).hexdigest()
    assert manifest.digest == "sha256:cdd0016dcab21366fba624b683a36621829b53ef1c20a95bb42accea6d775f63"


def test_the_order_of_files_and_keys_is_irrelevant() -> None:
    one = Manifest(files=(entry("a"), entry("b")), provenance={"x": 1, "y": {"p": 1, "q": 2}})
    two = Manifest(files=(entry("b"), entry("a")), provenance={"y": {"q": 2, "p": 1}, "x": 1})
    assert one.digest == two.digest
    assert one.digest != Manifest(files=(entry("a"), entry("b", 2)), provenance=one.provenance).digest


def test_a_round_trip_keeps_the_bytes() -> None:
    manifest = Manifest(files=(entry("b"), entry("a")), provenance={"loss": 0.1, "none": None, "text": "語"})
    assert Manifest.model_validate_json(manifest.to_bytes()).to_bytes() == manifest.to_bytes()
    assert manifest.size == 2


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "a\0b"])
def test_a_path_outside_the_directory_is_rejected(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a path inside the directory"):
        entry(path)


@pytest.mark.parametrize("path", ["a", "a/b.safetensors", "..a", "a..b/c", ".hidden"])
def test_a_path_inside_the_directory_is_accepted(path: str) -> None:
    assert entry(path).path == path
