"""An endpoint that is only reached through a proxy, as pods in a restricted network reach it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.endpoint.messages import Answer
from tests.endpoint_server import answer
from tests.tls import serving
from tests.unit.test_endpoint_client import ask, questions


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a proxy is asked for: it answers for every plain host, and refuses tunnels."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            body = answer("fine").body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(403, "Not on the list")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(Proxy) as url:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.delenv(name.lower(), raising=False)
        yield asked


def test_requests_go_through_the_proxy(proxied: list[str], tmp_path: Path) -> None:
    (outcome,), _ = ask("http://models.invalid/v1", questions("x"), tmp_path)
    assert isinstance(outcome, Answer)
    assert proxied == ["http://models.invalid/v1/chat/completions"]


def test_a_proxy_that_refuses_the_endpoint_is_named(proxied: list[str], tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as caught:
        ask("https://models.invalid/v1", questions("x"), tmp_path)
    assert caught.value.reason is Reason.UNAVAILABLE
    assert "the proxy in HTTPS_PROXY or HTTP_PROXY refuses it (403 Not on the list)" in caught.value.message
    assert set(proxied) == {"models.invalid:443"}
