"""Directories with a manifest, on the local disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_trainer import storage
from finetune_trainer.manifests import TornDirectory, fetch_directory, hash_files, publish_directory, read_manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"alpha")
    (folder / "deep" / "b").write_bytes(b"")
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "stored").as_uri()


def test_a_published_directory_is_fetched_completely(source: Path, uri: str, tmp_path: Path) -> None:
    assert read_manifest(uri) is None
    published = publish_directory(source, uri, {"model": "tiny"})
    assert published.provenance == {"model": "tiny"}
    assert read_manifest(uri) == Manifest(
        files=tuple(sorted(published.files, key=lambda entry: entry.path)), provenance={"model": "tiny"}
    )
    copy = tmp_path / "copy"
    assert fetch_directory(uri, copy).digest == published.digest
    assert (copy / "a").read_bytes() == b"alpha"
    assert (copy / "deep" / "b").read_bytes() == b""
    assert fetch_directory(copy.as_uri(), tmp_path / "again").digest == published.digest


def test_publishing_is_idempotent(source: Path, uri: str) -> None:
    first = publish_directory(source, uri, {"revision": 1})
    assert publish_directory(source, uri, {"revision": 1}).digest == first.digest


@pytest.mark.parametrize("change", ["content", "provenance", "file"])
def test_publishing_keeps_the_directory_of_another_run(source: Path, uri: str, tmp_path: Path, change: str) -> None:
    first = publish_directory(source, uri, {"revision": 1})
    if change == "content":
        (source / "a").write_bytes(b"omega")
    elif change == "file":
        (source / "c").write_bytes(b"")
    with pytest.raises(StageFailure, match=f"Another run has written to {uri}") as caught:
        publish_directory(source, uri, {"revision": 2 if change == "provenance" else 1})
    assert caught.value.reason == Reason.BAD_CONFIGURATION
    assert fetch_directory(uri, tmp_path / "copy").digest == first.digest


def test_a_directory_without_manifest_is_not_complete(source: Path, uri: str, tmp_path: Path) -> None:
    storage.upload_directory(source, uri)
    with pytest.raises(StageFailure, match="is incomplete or was deleted") as caught:
        fetch_directory(uri, tmp_path / "copy")
    assert caught.value.reason == Reason.NOT_FOUND
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("content", "difference"),
    [(None, "is missing"), (b"alph", "has 4 bytes instead of 5"), (b"ALPHA", "does not match its sha256")],
)
def test_a_corrupt_directory_names_the_first_bad_file(
    source: Path, uri: str, tmp_path: Path, content: bytes | None, difference: str
) -> None:
    publish_directory(source, uri, {})
    stored = tmp_path / "stored" / "a"
    if content is None:
        stored.unlink()
    else:
        stored.write_bytes(content)
    with pytest.raises(TornDirectory, match=difference) as caught:
        fetch_directory(uri, tmp_path / "copy")
    assert (caught.value.file, caught.value.uri, caught.value.reason) == ("a", uri, Reason.BAD_DATA)
    assert not (tmp_path / "copy" / "manifest.json").exists()
    assert not (tmp_path / "copy" / "a").exists()


@pytest.mark.parametrize("text", [b"", b"{", b'{"files": 1}'])
def test_an_invalid_manifest_is_reported(uri: str, text: bytes) -> None:
    storage.write_bytes(f"{uri}/manifest.json", text)
    with pytest.raises(TornDirectory, match=r"manifest\.json is not a valid manifest"):
        read_manifest(uri)


def test_manifest_paths_cannot_leave_the_directory(uri: str, tmp_path: Path, source: Path) -> None:
    entry = hash_files(source, ["a"])[0].model_dump() | {"path": "../source/a"}
    storage.write_bytes(f"{uri}/manifest.json", json.dumps({"files": [entry]}).encode())
    with pytest.raises(StageFailure):
        fetch_directory(uri, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
