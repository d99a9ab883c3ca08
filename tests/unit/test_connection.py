"""The connection to the API server: proxies of the environment, and the encoding of bodies."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_kube.connection import encoded, proxy_of_environment
from finetune_operator.cluster import connect
from finetune_operator.metrics import Metrics

SERVER = "http://kubernetes.test"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxies of this machine."""
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://10.0.0.1:6443", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://10.0.0.1:6443", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "https://10.0.0.1:6443", "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "https://10.0.0.1:6443", None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://10.0.0.1:8080", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.1"}, "https://10.0.0.1:6443", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".svc"}, "https://me@kubernetes.default.svc", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.2"}, "https://10.0.0.1", "http://proxy:3128"),
    ],
)
def test_proxy_is_taken_from_the_environment(
    environment: Mapping[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of_environment(url) == proxy


def test_requests_use_the_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [{"name": "here", "cluster": {"server": SERVER}}],
                "users": [{"name": "me", "user": {"token": "secret"}}],
            }
        )
    )
    # The kubernetes package reads KUBECONFIG at import.
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    requests = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n")
        writer.write(b'{"kind": "Job"}')
        await writer.drain()
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
            host, port = proxy.sockets[0].getsockname()
            monkeypatch.setenv("HTTP_PROXY", f"http://{host}:{port}")
            async with connect(Metrics()) as cluster:
                assert await cluster.get("Job", ("team-a", "intents")) == {"kind": "Job"}

    asyncio.run(work())
    assert requests == [f"GET {SERVER}/apis/batch/v1/namespaces/team-a/jobs/intents HTTP/1.1"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_encoded_body_is_equal_as_json_and_as_yaml(text: str) -> None:
    sent = encoded({"text": text})
    assert json.loads(sent) == yaml.safe_load(sent) == {"text": text}
    assert "\\ud" not in sent.decode() or "\\ud" in text, "YAML refuses an escaped surrogate"


def test_lone_surrogate_is_replaced() -> None:
    assert encoded({"text": "a\ud83d"}) == b'{"text":"a?"}'
