"""Storage on the local disk, addresses, and settings: everything that needs no storage service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer import storage
from finetune_trainer.storage.client import store_for
from finetune_trainer.storage.location import parse
from finetune_trainer.storage.parallel import each


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def failure_of(reason: Reason, *words: str) -> pytest.RaisesExc[StageFailure]:
    """Expect a StageFailure of ``reason`` whose message is one sentence that contains ``words``."""

    def matches(failure: StageFailure) -> bool:
        return (
            failure.reason == reason and all(word in failure.message for word in words) and is_sentence(failure.message)
        )

    return pytest.RaisesExc(StageFailure, check=matches)


def is_sentence(message: str) -> bool:
    return "\n" not in message and len(message) < 400 and "Debug" not in message and not message.endswith(".")


class TestAddresses:
    @pytest.mark.parametrize(
        ("uri", "parts", "expected"),
        [
            ("s3://bucket", ("a", "b/c"), "s3://bucket/a/b/c"),
            ("gs://bucket/runs/", ("a/",), "gs://bucket/runs/a"),
            ("az://box/runs", (), "az://box/runs"),
            ("s3://bucket/50% off", ("a#1?",), "s3://bucket/50% off/a#1?"),
            ("file:///data/my%20runs", ("é",), "file:///data/my%20runs/%C3%A9"),
            ("file:///data//runs/", ("100%",), "file:///data/runs/100%25"),
            ("file://localhost/data", ("x", ""), "file:///data/x"),
        ],
    )
    def test_join_appends_path_segments(self, uri: str, parts: tuple[str, ...], expected: str) -> None:
        assert storage.join(uri, *parts) == expected

    @pytest.mark.parametrize("part", ["..", "a/../../b", "/etc/passwd", "a//b", "./a"])
    def test_join_rejects_segments_that_leave_the_directory(self, part: str) -> None:
        with failure_of(Reason.BAD_CONFIGURATION, "s3://bucket/runs"):
            storage.join("s3://bucket/runs", part)

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("/data/runs", "file:///path"),
            ("", "is not a storage address"),
            ("ftp://host/x", "s3://, gs://, az://"),
            ("file://data/runs", "file:///data/runs"),
            ("s3:///runs", "has no bucket"),
            ("s3://bucket/a/../b", "'..'"),
            ("s3://bucket/a//b", "empty"),
        ],
    )
    def test_invalid_addresses_are_rejected(self, uri: str, words: str) -> None:
        with failure_of(Reason.BAD_CONFIGURATION, words):
            storage.read_bytes(uri)

    @pytest.mark.parametrize("uri", ["s3://key:hunter2@bucket/x", "az://box/x?sv=1&sig=hunter2"])
    def test_credentials_in_an_address_are_rejected_and_not_repeated(self, uri: str) -> None:
        with pytest.raises(StageFailure) as caught:
            storage.exists(uri)
        assert caught.value.reason == Reason.BAD_CONFIGURATION
        assert "hunter2" not in caught.value.message


class TestLocalObjects:
    def test_written_content_is_read_back(self, tmp_path: Path) -> None:
        uri = (tmp_path / "new folder" / "x#1").as_uri()
        assert not storage.exists(uri)
        assert storage.last_modified(uri) is None
        storage.write_bytes(uri, b"one")
        storage.write_bytes(uri, b"two")
        assert storage.read_bytes(uri) == b"two"
        assert storage.exists(uri)
        modified = storage.last_modified(uri)
        assert modified is not None
        assert modified.timestamp() == pytest.approx((tmp_path / "new folder" / "x#1").stat().st_mtime)

    def test_a_missing_object_is_not_found(self, tmp_path: Path) -> None:
        uri = (tmp_path / "x").as_uri()
        with failure_of(Reason.NOT_FOUND, uri):
            storage.read_bytes(uri)

    def test_a_directory_is_not_an_object(self, tmp_path: Path) -> None:
        assert not storage.exists(tmp_path.as_uri())
        with failure_of(Reason.BAD_CONFIGURATION, "directory"):
            storage.write_bytes(tmp_path.as_uri(), b"")

    def test_a_conditional_write_keeps_an_existing_object(self, tmp_path: Path) -> None:
        uri = (tmp_path / "x").as_uri()
        storage.write_bytes(uri, b"first", if_absent=True)
        with pytest.raises(storage.AlreadyExists, match="already exists"):
            storage.write_bytes(uri, b"second", if_absent=True)
        assert storage.read_bytes(uri) == b"first"
        assert [entry.name for entry in tmp_path.iterdir()] == ["x"]

    def test_one_of_many_concurrent_conditional_writers_succeeds(self, tmp_path: Path) -> None:
        uri = (tmp_path / "x").as_uri()
        start = threading.Barrier(8)

        def write(number: int) -> int | None:
            start.wait()
            try:
                storage.write_bytes(uri, b"%d" % number, if_absent=True)
            except storage.AlreadyExists:
                return None
            return number

        winners = [number for number in each(write, range(8), at_once=8) if number is not None]
        assert [b"%d" % number for number in winners] == [storage.read_bytes(uri)]

    def test_the_temporary_file_of_a_killed_writer_is_not_listed(self, tmp_path: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path; from finetune_trainer.storage.local import atomic_file\n"
            "with atomic_file(Path(sys.argv[1])) as file: file.write(b'half'); file.flush(); os._exit(9)"
        )
        run = subprocess.run([sys.executable, "-c", program, tmp_path / "x"], check=False)
        assert run.returncode == 9
        assert len(list(tmp_path.iterdir())) == 1
        assert storage.list_files(tmp_path.as_uri()) == []
        assert not storage.exists((tmp_path / "x").as_uri())


class TestLocalTrees:
    def test_list_files_returns_every_file_with_its_size(self, tmp_path: Path) -> None:
        for relative, size in [("b", 1), ("a/c", 0), ("a b/%", 3)]:
            storage.write_bytes(storage.join(tmp_path.as_uri(), relative), b"x" * size)
        assert storage.list_files(tmp_path.as_uri()) == [("a b/%", 3), ("a/c", 0), ("b", 1)]

    def test_list_files_of_a_missing_directory_is_empty(self, tmp_path: Path) -> None:
        assert storage.list_files((tmp_path / "none").as_uri()) == []

    def test_delete_tree_keeps_siblings(self, tmp_path: Path) -> None:
        for relative in ("tree/a/manifest.json", "tree/x", "trees"):
            storage.write_bytes(storage.join(tmp_path.as_uri(), relative), b"x")
        storage.delete_tree((tmp_path / "tree").as_uri())
        storage.delete_tree((tmp_path / "tree").as_uri())
        assert storage.list_files(tmp_path.as_uri()) == [("trees", 1)]

    @pytest.mark.parametrize("uri", ["file:///", "s3://bucket", "s3://bucket/"])
    def test_delete_tree_rejects_a_whole_disk_or_bucket(self, uri: str) -> None:
        with failure_of(Reason.BAD_CONFIGURATION, "has no path"):
            storage.delete_tree(uri)

    def test_a_directory_is_uploaded_and_downloaded(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "deep").mkdir(parents=True)
        (source / "deep" / "x").write_bytes(b"x" * 3_000_000)
        (source / "link").symlink_to(source / "deep" / "x")
        reported: list[int] = []
        uri = (tmp_path / "stored").as_uri()
        entries = storage.upload_directory(source, uri, on_bytes=reported.append)
        assert [(entry.path, entry.size) for entry in entries] == [("link", 3_000_000), ("deep/x", 3_000_000)]
        assert sum(reported) == 6_000_000
        assert storage.download_directory(uri, tmp_path / "copy") == [("deep/x", 3_000_000), ("link", 3_000_000)]
        assert (tmp_path / "copy" / "link").read_bytes() == (source / "deep" / "x").read_bytes()

    def test_only_the_requested_files_are_uploaded(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "a").write_bytes(b"")
        (source / "b").write_bytes(b"b")
        uri = (tmp_path / "stored").as_uri()
        assert [entry.path for entry in storage.upload_directory(source, uri, ["b"])] == ["b"]
        with failure_of(Reason.NOT_FOUND, "source/c"):
            storage.upload_directory(source, uri, ["c"])
        with failure_of(Reason.NOT_FOUND, "missing"):
            storage.upload_directory(tmp_path / "missing", uri)

    def test_localise_uses_a_local_file_in_place(self, tmp_path: Path) -> None:
        data = tmp_path / "data.jsonl"
        data.write_bytes(b"{}")
        scratch = tmp_path / "scratch"
        assert storage.localise(data.as_uri(), scratch) == data
        assert storage.localise(tmp_path.as_uri(), scratch) == tmp_path
        assert not scratch.exists()
        with failure_of(Reason.NOT_FOUND, "none.jsonl"):
            storage.localise((tmp_path / "none.jsonl").as_uri(), scratch)


class TestDisks:
    def test_a_full_disk_is_reported_and_no_partial_file_remains(self, mounted: Path, tmp_path: Path) -> None:
        uri = (mounted / "x").as_uri()
        with failure_of(Reason.DISK_FULL, uri, "full"):
            storage.write_bytes(uri, bytes(2 << 20))
        big = tmp_path / "big"
        big.write_bytes(bytes(2 << 20))
        with failure_of(Reason.DISK_FULL, (mounted / "big").as_uri()):
            storage.upload_directory(tmp_path, mounted.as_uri(), ["big"])
        with failure_of(Reason.DISK_FULL, str(mounted / "copy")):
            storage.download_file(big.as_uri(), mounted / "copy")
        assert list(mounted.iterdir()) == []

    def test_a_read_only_disk_is_reported(self, mounted: Path) -> None:
        storage.check_writable(mounted.as_uri())
        assert list(mounted.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
        with failure_of(Reason.PERMISSION_DENIED, f"Cannot write {mounted.as_uri()}:", "read-only"):
            storage.check_writable(mounted.as_uri())

    def test_a_file_at_the_path_of_a_directory_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with failure_of(Reason.BAD_CONFIGURATION, "correct the address"):
            storage.check_writable((tmp_path / "file" / "below").as_uri())


class TestSettings:
    """Settings in the environment are checked before the first request."""

    @pytest.fixture(autouse=True)
    def no_cloud_variables(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in list(os.environ):
            if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))

    @pytest.mark.parametrize(
        ("uri", "variable", "value", "words"),
        [
            ("s3://b/x", "AWS_ENDPOINT_URL", "minio:9000", "AWS_ENDPOINT_URL is not an HTTP URL"),
            ("s3://b/x", "AWS_ACCESS_KEY_ID", "a", "AWS_SECRET_ACCESS_KEY is not; put both into the Secret"),
            ("s3://b/x", "AWS_PROFILE", "absent", "profile absent has no aws_access_key_id"),
            ("s3://b/x", "AWS_SHARED_CREDENTIALS_FILE", "/none", "Cannot read /none (AWS_SHARED_CREDENTIALS_FILE)"),
            ("s3://b/x", "AWS_CA_BUNDLE", "/none", "Cannot read /none (AWS_CA_BUNDLE)"),
            ("gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS", "/none", "the file in GOOGLE_APPLICATION_CREDENTIALS"),
            ("az://b/x", "AZURE_UNUSED", "", "set AZURE_STORAGE_ACCOUNT_NAME"),
            ("s3://b/x", "FINETUNE_STORAGE_PATIENCE_SECONDS", "long", "not a number of seconds"),
        ],
    )
    def test_an_invalid_setting_is_named(
        self, monkeypatch: pytest.MonkeyPatch, uri: str, variable: str, value: str, words: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with failure_of(Reason.BAD_CONFIGURATION, words):
            storage.exists(uri)

    def test_a_bundle_without_certificates_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        with failure_of(Reason.BAD_CONFIGURATION, "AWS_CA_BUNDLE"):
            storage.exists("s3://b/x")

    def test_a_malformed_profile_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws/credentials").write_text("hunter2")
        with pytest.raises(StageFailure, match="is not an AWS profile file") as caught:
            storage.exists("s3://b/x")
        assert "hunter2" not in caught.value.message

    def test_a_client_is_reused_until_the_environment_changes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = store_for(parse("s3://b/x"))
        assert store_for(parse("s3://b/y")) is first
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        assert store_for(parse("s3://b/x")) is not first
