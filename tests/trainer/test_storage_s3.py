"""Storage against a real S3 server on localhost."""

from __future__ import annotations

import os
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer import storage
from finetune_trainer.checkpoints.upload import CheckpointUploader, SavedCheckpoint
from finetune_trainer.manifests import TornDirectory, fetch_directory, publish_directory, read_manifest
from finetune_trainer.storage.parallel import each
from tests.guarded_s3 import AWS_LOCK, MINIO_LOCK, POLICY, GuardedS3, Refusal, guarded_s3
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

BIG = 50 * (1 << 20) + 12_345  # four parts of 16 MiB, the last one short


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket("bucket")
        yield running


@pytest.fixture
def environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    use(server, monkeypatch)
    return monkeypatch


@pytest.fixture
def uri(environment: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:  # noqa: ARG001
    """An address in the bucket for this test only."""
    return f"s3://bucket/{request.node.name}"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file of four parts and some small ones."""
    folder = tmp_path_factory.mktemp("big")
    (folder / "weights").write_bytes(os.urandom(BIG))
    (folder / "a b").mkdir()
    (folder / "a b" / "50% é#1?").write_bytes(b"small")
    (folder / "empty").write_bytes(b"")
    return folder


def use(server: S3Server | GuardedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FINETUNE_STORAGE_PATIENCE_SECONDS", "1")


def check(caught: pytest.ExceptionInfo[StageFailure], reason: Reason, *words: str) -> None:
    message = caught.value.message
    assert caught.value.reason == reason, message
    for word in words:
        assert word in message
    assert "\n" not in message
    printed = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET_KEY, ACCESS_KEY, "<?xml", "Debug source"):
        assert secret not in printed


class TestObjects:
    def test_written_content_is_read_back(self, uri: str) -> None:
        address = storage.join(uri, "a b/50% é#1?")
        assert not storage.exists(address)
        assert storage.last_modified(address) is None
        storage.write_bytes(address, b"one")
        storage.write_bytes(address, b"two")
        assert storage.read_bytes(address) == b"two"
        assert storage.exists(address)
        modified = storage.last_modified(address)
        assert modified is not None
        assert modified.utcoffset() is not None

    def test_a_missing_object_is_not_found(self, uri: str) -> None:
        with pytest.raises(StageFailure) as caught:
            storage.read_bytes(uri)
        check(caught, Reason.NOT_FOUND, f"Cannot read {uri}: it does not exist", "404 NoSuchKey")

    def test_one_of_two_concurrent_conditional_writers_succeeds(self, uri: str) -> None:
        def write(data: bytes) -> bytes | None:
            try:
                storage.write_bytes(uri, data, if_absent=True)
            except storage.AlreadyExists:
                return None
            return data

        winners = [data for data in each(write, [b"one", b"two"], at_once=2) if data is not None]
        assert winners == [storage.read_bytes(uri)]
        with pytest.raises(storage.AlreadyExists, match=f"{uri} already exists"):
            storage.write_bytes(uri, b"three", if_absent=True)

    def test_writing_to_the_path_of_a_directory_is_rejected(self, uri: str) -> None:
        storage.write_bytes(f"{uri}/below", b"")
        for if_absent in (True, False):
            with pytest.raises(StageFailure) as caught:
                storage.write_bytes(uri, b"", if_absent=if_absent)
            check(caught, Reason.BAD_CONFIGURATION, "a directory of that name")

    def test_check_writable_leaves_no_object(self, uri: str) -> None:
        storage.check_writable(uri)
        storage.check_writable("s3://bucket")
        assert storage.list_files(uri) == []


class TestTrees:
    def test_a_large_directory_is_uploaded_and_downloaded(self, uri: str, big: Path, tmp_path: Path) -> None:
        reported: list[int] = []
        entries = storage.upload_directory(big, uri, on_bytes=reported.append)
        assert sum(reported) == sum(entry.size for entry in entries) == BIG + 5
        sha256 = subprocess.run(["sha256sum", big / "weights"], check=True, capture_output=True, text=True).stdout
        assert {entry.path: entry.sha256 for entry in entries}["weights"] == sha256.split()[0]
        assert storage.list_files(uri) == [("a b/50% é#1?", 5), ("empty", 0), ("weights", BIG)]
        storage.download_directory(uri, tmp_path / "copy")
        subprocess.run(["diff", "--recursive", big, tmp_path / "copy"], check=True)

    def test_localise_downloads_a_file_or_a_tree(self, uri: str, big: Path, tmp_path: Path) -> None:
        storage.upload_directory(big, uri)
        file = storage.localise(f"{uri}/weights", tmp_path)
        assert file.name == "weights"
        subprocess.run(["cmp", big / "weights", file], check=True)
        tree = storage.localise(uri, tmp_path)
        subprocess.run(["diff", "--recursive", big, tree], check=True)
        with pytest.raises(StageFailure) as caught:
            storage.localise(f"{uri}/none", tmp_path)
        check(caught, Reason.NOT_FOUND, f"{uri}/none", "it does not exist")

    def test_delete_tree_keeps_siblings(self, uri: str) -> None:
        for relative in ("tree/manifest.json", "tree/a/b", "trees"):
            storage.write_bytes(f"{uri}/{relative}", b"x")
        storage.delete_tree(f"{uri}/tree")
        storage.delete_tree(f"{uri}/tree")
        assert storage.list_files(uri) == [("trees", 1)]

    def test_a_full_scratch_disk_is_reported(self, uri: str, big: Path, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        storage.upload_directory(big, uri, ["weights"])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", tmp_path], check=True)
        try:
            with pytest.raises(StageFailure) as caught:
                storage.download_file(f"{uri}/weights", tmp_path / "weights")
            assert list(tmp_path.iterdir()) == []
        finally:
            subprocess.run(["umount", tmp_path], check=True)
        check(caught, Reason.DISK_FULL, str(tmp_path / "weights"))


class TestManifests:
    def test_a_published_directory_is_fetched_completely(self, uri: str, big: Path, tmp_path: Path) -> None:
        assert read_manifest(uri) is None
        published = publish_directory(big, uri, {"revision": 1})
        assert fetch_directory(uri, tmp_path / "copy").digest == published.digest
        assert (tmp_path / "copy" / "weights").stat().st_size == BIG
        with pytest.raises(StageFailure, match=f"Another run has written to {uri}") as caught:
            publish_directory(big, uri, {"revision": 2})
        assert caught.value.reason == Reason.BAD_CONFIGURATION

    def test_one_of_two_runs_that_publish_concurrently_succeeds(self, uri: str, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "x").write_bytes(b"same")

        def publish(revision: int) -> int | None:
            try:
                publish_directory(tmp_path / "source", uri, {"revision": revision})
            except StageFailure:
                return None
            return revision

        winners = [revision for revision in each(publish, range(2), at_once=2) if revision is not None]
        assert [{"revision": winner} for winner in winners] == [fetch_directory(uri, tmp_path / "copy").provenance]

    def test_a_torn_directory_names_the_file(self, uri: str, big: Path, tmp_path: Path) -> None:
        publish_directory(big, uri, {})
        storage.write_bytes(f"{uri}/a b/50% é#1?", b"SMALL")
        with pytest.raises(TornDirectory) as caught:
            fetch_directory(uri, tmp_path / "copy")
        assert caught.value.file == "a b/50% é#1?"
        assert read_manifest((tmp_path / "copy").as_uri()) is None


def every_call(uri: str, tmp_path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every storage function, by name, as a call on ``uri`` without arguments."""
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "x").write_bytes(b"x")
    with (tmp_path / "source" / "many parts").open("wb") as file:
        file.truncate(17 << 20)
    yield "read", lambda: storage.read_bytes(uri)
    yield "write", lambda: storage.write_bytes(uri, b"")
    yield "write if absent", lambda: storage.write_bytes(uri, b"", if_absent=True)
    yield "exists", lambda: storage.exists(uri)
    yield "list", lambda: storage.list_files(uri)
    yield "delete", lambda: storage.delete_tree(uri)
    yield "probe", lambda: storage.check_writable(uri)
    yield "upload", lambda: storage.upload_directory(tmp_path / "source", uri)
    yield "download", lambda: storage.download_file(uri, tmp_path / "copy")
    yield "localise", lambda: storage.localise(uri, tmp_path)
    yield "fetch", lambda: fetch_directory(uri, tmp_path / "copies")


CALLS = [
    *("read", "write", "write if absent", "exists", "list", "delete", "probe"),
    *("upload", "download", "localise", "fetch"),
]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("call", CALLS)
class TestFailures:
    """Every storage function reports the same problem with the same reason."""

    def fails(self, call: str, uri: str, tmp_path: Path) -> pytest.ExceptionInfo[StageFailure]:
        with pytest.raises(StageFailure) as caught:
            dict(every_call(uri, tmp_path))[call]()
        return caught

    def test_a_wrong_secret(self, call: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        caught = self.fails(call, "s3://bucket/x", tmp_path)
        check(caught, Reason.PERMISSION_DENIED, "s3://bucket/x", "check AWS_ACCESS_KEY_ID")

    def test_an_unknown_key(self, call: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("AWS_ACCESS_KEY_ID", "nobody")
        check(self.fails(call, "s3://bucket/x", tmp_path), Reason.PERMISSION_DENIED, "s3://bucket/x")

    def test_a_missing_bucket(self, call: str, tmp_path: Path) -> None:
        caught = self.fails(call, "s3://no-such-bucket/x", tmp_path)
        check(caught, Reason.NOT_FOUND, "the bucket no-such-bucket does not exist", "NoSuchBucket")

    def test_a_wrong_region(self, call: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("AWS_REGION", "eu-central-1")
        assert self.fails(call, "s3://bucket/x", tmp_path).value.reason == Reason.BAD_CONFIGURATION

    def test_a_stopped_server(self, call: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with s3_server(tmp_path / "other") as other:
            other.make_bucket("bucket")
            use(other, environment)
            storage.check_writable("s3://bucket")
        caught = self.fails(call, "s3://bucket/x", tmp_path)
        check(caught, Reason.UNAVAILABLE, "s3://bucket/x", "could not be reached", "AWS_ENDPOINT_URL")


class TestGuardedBucket:
    """What the service forbids although the credentials are valid."""

    @pytest.fixture
    def service(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedS3]:
        with guarded_s3() as running:
            use(running, monkeypatch)
            storage.write_bytes("s3://bucket/retention/manifest.json", b"x")
            yield running

    @pytest.mark.parametrize("refusal", [AWS_LOCK, MINIO_LOCK], ids=lambda refusal: refusal.code)
    def test_object_lock_is_named(self, service: GuardedS3, refusal: Refusal) -> None:
        service.on_delete = service.on_overwrite = refusal
        for call in (
            lambda: storage.delete_tree("s3://bucket/retention"),
            lambda: storage.write_bytes("s3://bucket/retention/manifest.json", b"y"),
        ):
            with pytest.raises(StageFailure) as caught:
                call()
            check(caught, Reason.PERMISSION_DENIED, "s3://bucket/retention", "object lock or a retention policy")
            assert refusal.code in caught.value.message

    def test_a_policy_is_not_reported_as_wrong_credentials(self, service: GuardedS3) -> None:
        """The name of the bucket or of a key in the response is no cause."""
        service.on_delete = service.on_overwrite = POLICY
        for call in (
            lambda: storage.delete_tree("s3://bucket/retention"),
            lambda: storage.write_bytes("s3://bucket/retention/manifest.json", b"y"),
        ):
            with pytest.raises(StageFailure) as caught:
                call()
            check(caught, Reason.PERMISSION_DENIED, "the credentials do not permit it; grant the permission")
            assert len(caught.value.message) < 300

    def test_an_old_checkpoint_that_stays_does_not_fail_the_upload_of_the_new_one(
        self, service: GuardedS3, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        service.on_delete = AWS_LOCK
        complete: list[int] = []
        uploader = CheckpointUploader(
            "s3://bucket/checkpoints",
            keep=1,
            worker=0,
            workers=1,
            busy=tmp_path / "busy",
            on_complete=lambda ref, _: complete.append(ref.step),
        )
        uploader.start()
        for step in (1, 2, 3):
            (tmp_path / str(step)).mkdir()
            (tmp_path / str(step) / "state").write_bytes(b"x")
            uploader.submit(SavedCheckpoint(step, tmp_path / str(step), {}, None))
        uploader.drain()
        assert (complete, uploader.failure) == ([1, 2, 3], None)
        assert len([record for record in caplog.records if "it stays" in record.message]) == 1

    def test_a_throttled_deletion_is_tried_again_later(self, service: GuardedS3) -> None:
        service.on_delete = Refusal(503, "SlowDown", "Please reduce your request rate.")
        with pytest.raises(StageFailure) as caught:
            storage.delete_tree("s3://bucket/retention")
        check(caught, Reason.UNAVAILABLE, "the service still returned an error")


def test_documents_do_not_wait_long_for_a_server_that_never_answers(environment: pytest.MonkeyPatch) -> None:
    """``revision.json`` is such a document: a hanging request would block the run that has claimed the revision."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2) as pool:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        calls = [
            pool.submit(storage.read_bytes, "s3://bucket/x"),
            pool.submit(storage.write_bytes, "s3://bucket/x", b"{}"),
        ]
        for call in calls:
            error = call.exception(timeout=120)  # Requests with megabytes of payload may take five minutes.
            assert isinstance(error, StageFailure)
            assert error.reason == Reason.UNAVAILABLE


def test_a_full_service_is_reported(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)
    try:
        with s3_server(tmp_path / "server") as small:
            small.make_bucket("bucket")
            use(small, environment)
            with pytest.raises(StageFailure) as caught:
                storage.write_bytes("s3://bucket/x", bytes(8 << 20))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    check(caught, Reason.DISK_FULL, "s3://bucket/x", "the storage service is full")


class TestProfiles:
    """Credentials from files, as the AWS tools read them."""

    @pytest.fixture(autouse=True)
    def profile(self, environment: pytest.MonkeyPatch, server: S3Server, tmp_path: Path) -> None:
        for name in server.environment:
            environment.delenv(name)
        environment.setenv("HOME", str(tmp_path))
        (tmp_path / ".aws").mkdir()
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        (tmp_path / ".aws/credentials").write_text(f"[other]\n{keys}[default]\n{keys}")
        (tmp_path / ".aws/config").write_text(
            f"[default]\nregion = us-east-1\nendpoint_url = {server.endpoint}\n"
            f"[profile other]\nendpoint_url = {server.endpoint}\n[profile sso]\nsso_session = x\n"
        )

    def test_the_default_profile_is_used(self) -> None:
        storage.check_writable("s3://bucket/profiles")

    def test_a_named_profile_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "other")
        storage.check_writable("s3://bucket/profiles")

    def test_a_profile_without_keys_is_rejected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "sso")
        with pytest.raises(StageFailure) as caught:
            storage.check_writable("s3://bucket/profiles")
        assert caught.value.reason == Reason.BAD_CONFIGURATION
        assert "The AWS profile sso has no aws_access_key_id" in caught.value.message

    def test_environment_variables_override_the_profile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StageFailure) as caught:
            storage.check_writable("s3://bucket/profiles")
        check(caught, Reason.PERMISSION_DENIED)
