"""hf:// models against an HTTP server that imitates the hub, with a new client process for each environment."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.spec import ModelSpec
from finetune_trainer.base_content import content_of
from finetune_trainer.models import fetch_model
from tests.trainer.prepare_fixtures import PLAIN_TEMPLATE, a_chat_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test"

_PROGRAM = """
import json, sys
from pathlib import Path
from finetune_api.failures import StageFailure
from finetune_api.spec import ModelSpec
from finetune_trainer.base_content import content_of
from finetune_trainer.models import fetch_model, identify_model

uri, revision, weights, scratch = sys.argv[1:]
model = ModelSpec(uri=uri, revision=revision)
try:
    local = fetch_model(model, Path(scratch), weights=weights == "yes")
    identity = identify_model(model, local)
    answer = {
        "revision": local.revision,
        "files": sorted(file.name for file in local.path.iterdir()),
        "parameters": identity.parameters,
        "license": identity.license,
        "content": (content := content_of(model, local)) and content.model_dump(),
    }
except StageFailure as failure:
    answer = {"reason": failure.reason, "message": failure.message}
print(json.dumps(answer))
"""


@dataclass
class Hub:
    """The content and the responses of the server."""

    model: Path
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    needs_token: bool = False
    asked: list[str] = field(default_factory=list)
    address: str = ""
    large: bool = True
    """Whether the weights are large files, whose digest the hub says."""

    def siblings(self) -> list[dict[str, Any]]:
        """The files as the hub lists them with their metadata."""
        file = self.model / "model.safetensors"
        if not file.exists():
            return []
        size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        lfs = {"lfs": {"sha256": digest, "size": size, "pointerSize": 134}} if self.large else {}
        return [{"rfilename": "config.json"}, {"rfilename": file.name, "size": size, **lfs}]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(path)
        if self.hub.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"", {"X-Error-Message": "Invalid username or password."}, body=body)
        elif self.hub.status != 200:
            self._send(self.hub.status, b"", self.hub.headers, body=body)
        elif path.removeprefix("/api/models/owner/model") in ("", "/revision/main", f"/revision/{COMMIT}"):
            self._json({"id": "owner/model", "sha": COMMIT, "siblings": self.hub.siblings()}, body=body)
        elif path == f"/api/models/owner/model/tree/{COMMIT}":
            files = {str(file.relative_to(self.hub.model)): file for file in self.hub.model.rglob("*")}
            entries = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": _oid(file)}
                for path, file in sorted(files.items())
                if file.is_file()
            ]
            self._json(entries, body=body)
        elif path.startswith(f"/owner/model/resolve/{COMMIT}/"):
            self._file(self.hub.model / path.removeprefix(f"/owner/model/resolve/{COMMIT}/"), body=body)
        else:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)

    def _file(self, file: Path, *, body: bool) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body=body)
            return
        content, status = file.read_bytes(), 200
        headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
            content, status = content[int(first) : end + 1], 206
        self._send(status, content, headers, body=body)

    def _json(self, document: object, *, body: bool) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with one model, owner/model, of 64 parameters."""
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    (model / "evil.py").write_text("raise SystemExit")
    state = Hub(model)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def ask(tmp_path: Path, endpoint: str, *, revision: str = "main", weights: bool = False, **env: str) -> dict[str, Any]:
    """Fetch and identify hf://owner/model in a new process: the library reads its environment when imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "hf://owner/model", revision, "yes" if weights else "no", str(tmp_path / "s")],
        env={
            **clean,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_model_is_pinned_to_its_commit_and_identified_without_its_weights(tmp_path: Path, hub: Hub) -> None:
    answer = ask(tmp_path, hub.address)
    assert (answer["revision"], answer["parameters"], answer["license"]) == (COMMIT, 64, "mit")
    assert "config.json" in answer["files"]
    assert "tokenizer.json" in answer["files"]
    assert not {"pytorch_model.bin", "evil.py", "model.safetensors"} & set(answer["files"])


def test_the_chat_templates_beside_the_default_are_the_only_directory(tmp_path: Path, hub: Hub) -> None:
    for name in ("additional_chat_templates/tool_use.jinja", "original/config.json"):
        (hub.model / name).parent.mkdir()
        (hub.model / name).write_text("{}")
    assert {"additional_chat_templates", "original"} & set(ask(tmp_path, hub.address)["files"]) == {
        "additional_chat_templates"
    }


def test_weights_are_downloaded_on_request_and_then_used_offline(tmp_path: Path, hub: Hub) -> None:
    assert "model.safetensors" in ask(tmp_path, hub.address, weights=True)["files"]
    hub.asked.clear()
    answer = ask(tmp_path, hub.address, revision=COMMIT, HF_HUB_OFFLINE="1")
    assert (answer["revision"], answer["parameters"]) == (COMMIT, 64)
    assert not hub.asked


def test_an_adapter_is_no_model(tmp_path: Path, hub: Hub) -> None:
    (hub.model / "config.json").rename(hub.model / "adapter_config.json")
    answer = ask(tmp_path, hub.address)
    assert answer["reason"] == Reason.BAD_CONFIGURATION
    assert answer["message"].startswith("hf://owner/model is an adapter, not a whole model: set spec.model.uri to its")


def test_a_model_and_its_copy_have_the_same_content(tmp_path: Path, hub: Hub) -> None:
    model = ModelSpec(uri=hub.model.as_uri())
    copy = content_of(model, fetch_model(model, tmp_path / "copy", weights=True))
    assert copy is not None
    assert ask(tmp_path / "1", hub.address)["content"] == copy.model_dump()
    hub.large = False
    assert ask(tmp_path / "2", hub.address)["content"] == copy.model_dump()
    assert ask(tmp_path / "2", hub.address, weights=True)["content"] == copy.model_dump()


def test_a_private_model_needs_a_token(tmp_path: Path, hub: Hub) -> None:
    hub.needs_token = True
    assert ask(tmp_path, hub.address, HF_TOKEN=TOKEN)["parameters"] == 64
    answer = ask(tmp_path / "2", hub.address)
    assert answer == {
        "reason": Reason.PERMISSION_DENIED,
        "message": "The hub denied access to hf://owner/model (HTTP 401): correct spec.model.uri, or set HF_TOKEN to a "
        "token with read access",
    }


@pytest.mark.parametrize(
    ("answer", "reason", "sentence"),
    [
        (
            (404, "RepoNotFound"),
            Reason.NOT_FOUND,
            "hf://owner/model does not exist on the hub or is private: correct spec.model.uri, or set HF_TOKEN to a "
            "token with read access",
        ),
        (
            (401, "RepoNotFound"),
            Reason.NOT_FOUND,
            "hf://owner/model does not exist on the hub or is private: correct spec.model.uri, or set HF_TOKEN to a "
            "token with read access",
        ),
        (
            (404, "RevisionNotFound"),
            Reason.NOT_FOUND,
            "hf://owner/model has no branch, tag or commit 'main': correct spec.model.revision",
        ),
        (
            (403, "GatedRepo"),
            Reason.PERMISSION_DENIED,
            "hf://owner/model is gated: accept its terms on the hub, and set HF_TOKEN to a token of the same account",
        ),
        (
            (403, ""),
            Reason.PERMISSION_DENIED,
            "The hub denied access to hf://owner/model (HTTP 403): correct spec.model.uri, or set HF_TOKEN to a token "
            "with read access",
        ),
        (
            (501, ""),
            Reason.UNAVAILABLE,
            "The hub returned HTTP 501 for hf://owner/model: check the status of the hub, or retry later",
        ),
    ],
)
def test_error_responses_of_the_hub_have_a_reason_and_a_message(
    tmp_path: Path, hub: Hub, answer: tuple[int, str], reason: Reason, sentence: str
) -> None:
    hub.status, code = answer
    hub.headers = {"X-Error-Code": code} if code else {}
    assert ask(tmp_path, hub.address) == {"reason": reason, "message": sentence}


def test_a_model_without_safetensors_is_rejected(tmp_path: Path, hub: Hub) -> None:
    (hub.model / "model.safetensors").unlink()
    for weights in (False, True):
        answer = ask(tmp_path, hub.address, weights=weights)
        assert answer["reason"] == Reason.BAD_CONFIGURATION
        assert answer["message"].startswith("hf://owner/model has no *.safetensors weights")


def test_an_unreachable_hub_is_unavailable(tmp_path: Path) -> None:
    # The port is bound but not listening.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answer = ask(tmp_path, f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert answer == {
        "reason": Reason.UNAVAILABLE,
        "message": "Cannot reach the hub for hf://owner/model: check the network, and HF_ENDPOINT if it is set",
    }


def test_a_model_that_is_not_cached_is_not_found_offline(tmp_path: Path) -> None:
    answer = ask(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert answer == {
        "reason": Reason.NOT_FOUND,
        "message": "hf://owner/model at revision 'main' is not completely in the cache, and HF_HUB_OFFLINE prevents "
        "the download: add it to the cache in HF_HOME, or unset HF_HUB_OFFLINE",
    }
