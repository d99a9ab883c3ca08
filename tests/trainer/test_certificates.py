"""TLS certificates of storage and the hub, with real servers, and with new processes that read the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob
from finetune_api.stage import Device, Stage, StageConfig, StageReport, World
from tests.builders import an_identity, manifest
from tests.guarded_s3 import guarded_s3
from tests.ports import free_port
from tests.tls import Authority, serving

_PROGRAM = """
import json, sys
from pathlib import Path
from finetune_api.failures import StageFailure
from finetune_api.spec import ModelSpec
from finetune_trainer import certificates, storage
from finetune_trainer.models import fetch_model

scratch, what = sys.argv[1:]
try:
    certificates.trust_bundle(Path(scratch))
    if what == "hub":
        fetch_model(ModelSpec(uri="hf://owner/model"), Path(scratch), weights=False)
    elif what == "upload":
        (Path(scratch) / "file").write_bytes(b"x")
        storage.upload_directory(Path(scratch), "s3://bucket/x", ["file"])
    else:
        print(json.dumps(storage.read_bytes("s3://bucket/x").decode()))
except StageFailure as failure:
    print(json.dumps({"reason": failure.reason, "message": failure.message}))
"""


class _Handler(BaseHTTPRequestHandler):
    """Answers every request with ``hello``; the hub's client then reports that the model does not exist."""

    def do_GET(self) -> None:
        self._answer(404 if self.path.startswith("/api/") else 200)

    def do_HEAD(self) -> None:
        self._answer(200)

    def _answer(self, status: int) -> None:
        content = b"hello"
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": '"1"',
            "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[str]:
    with serving(_Handler, authority.issue()) as url:
        yield url


def call(url: str, scratch: Path, what: str = "read", **environment: str) -> Any:
    """The result of one storage or hub call in a new process."""
    scratch.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_"))}
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, scratch, what],
        env={
            **inherited,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "HF_ENDPOINT": url,
            "HF_HOME": str(scratch / "hf"),
            **environment,
        },
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_storage_and_hub_accept_a_certificate_of_the_bundle(server: str, authority: Authority, tmp_path: Path) -> None:
    bundle = {"FINETUNE_CA_BUNDLE": str(authority.certificate)}
    assert call(server, tmp_path, **bundle) == "hello"
    assert call(server, tmp_path, "hub", **bundle)["reason"] == Reason.NOT_FOUND


def test_the_bundle_is_added_to_the_authorities_that_are_trusted_already(
    server: str, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    both = {"SSL_CERT_FILE": str(authority.certificate), "FINETUNE_CA_BUNDLE": str(other.certificate)}
    assert call(server, tmp_path, **both) == "hello"
    with serving(_Handler, other.issue()) as url:
        assert call(url, tmp_path, **both) == "hello"


@pytest.mark.parametrize("what", ["read", "upload", "hub"])
@pytest.mark.parametrize(
    ("issued", "words"),
    [
        ({}, "no certificate authority that is trusted here has signed the certificate of"),
        ({"host": "DNS:elsewhere.example"}, "is for another host"),
        ({"days": -1}, "has expired or is not valid yet"),
    ],
    ids=["unknown authority", "other host", "expired"],
)
def test_a_refused_certificate_is_a_configuration_error_at_once(
    authority: Authority, tmp_path: Path, what: str, issued: dict[str, Any], words: str
) -> None:
    bundle = {"FINETUNE_CA_BUNDLE": str(authority.certificate)} if issued else {}
    connections = []

    class Counting(_Handler):
        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

    with serving(Counting, authority.issue(**issued)) as url:
        found = call(url, tmp_path, what, **bundle)
    # obstore tries again for a minute by default; huggingface_hub makes two requests.
    assert len(connections) == (2 if what == "hub" else 1)
    assert found["reason"] == Reason.BAD_CONFIGURATION, found
    assert words in found["message"]
    assert url.removeprefix("https://") in found["message"]
    assert "\n" not in found["message"]


def test_a_server_with_the_certificate_of_an_authority_is_explained(tmp_path: Path) -> None:
    """rustls refuses it, even where OpenSSL does not."""
    own = Authority(tmp_path, "IP:127.0.0.1")
    with serving(_Handler, (own.certificate, own.key)) as url:
        found = call(url, tmp_path, FINETUNE_CA_BUNDLE=str(own.certificate))
    assert found["reason"] == Reason.BAD_CONFIGURATION
    assert "is that of an authority" in found["message"]


@pytest.mark.parametrize(("content", "words"), [("nothing", "contains no valid PEM"), (None, "cannot be read")])
def test_an_unusable_bundle_is_named(server: str, tmp_path: Path, content: str | None, words: str) -> None:
    if content:
        (tmp_path / "ca.crt").write_text(content)
    found = call(server, tmp_path, FINETUNE_CA_BUNDLE=str(tmp_path / "ca.crt"))
    assert found["reason"] == Reason.BAD_CONFIGURATION
    assert words in found["message"]
    assert "trainer.caBundle" in found["message"]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_stage_trusts_the_bundle_in_all_its_processes(authority: Authority, tmp_path: Path, trusted: bool) -> None:
    """The host writes the claim of the revision, the worker reads the data."""
    document = manifest(
        dataset={"train": {"uri": "s3://bucket/none.jsonl"}},
        output={"uri": "s3://bucket/out"},
    )
    config = StageConfig(
        job=an_identity(),
        stage=Stage.PREPARE,
        attempt=1,
        spec=FineTuneJob.model_validate_json(json.dumps(document)).spec,
        world=World(workers=1, processes_per_worker=1, device=Device.CPU),
        workspace=str(tmp_path / "workspace"),
        termination_message_path=str(tmp_path / "report.json"),
        port=free_port(),
        listen="127.0.0.1",
    )
    (tmp_path / "stage.json").write_text(config.model_dump_json(exclude_unset=True))
    with guarded_s3(authority.issue()) as service:
        bundle = {"FINETUNE_CA_BUNDLE": str(authority.certificate)} if trusted else {}
        subprocess.run(
            [sys.executable, "-m", "finetune_trainer", "prepare", "--config", tmp_path / "stage.json"],
            env={**os.environ, **service.environment, **bundle},
            check=False,
            capture_output=True,
        )
    error = StageReport.model_validate_json((tmp_path / "report.json").read_bytes()).error
    assert error
    if trusted:
        assert error.reason is Reason.NOT_FOUND
        assert "s3://bucket/none.jsonl" in error.message
        assert any(key.startswith("out/") for key in service.objects), "the host has claimed the revision"
    else:
        assert error.reason is Reason.BAD_CONFIGURATION
        assert "trainer.caBundle" in error.message
