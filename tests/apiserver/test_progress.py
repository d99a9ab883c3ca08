"""Progress of a running stage, polled from its pod: directly, and through the API server."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from finetune_api.stage import Stage, StageConfig
from tests import builders
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, stage
from tests.apiserver.kubelet import Kubelet
from tests.ports import LOOPBACK

PORT: int = StageConfig.model_fields["port"].default


@contextmanager
def pod_that_answers(address: str, redirect: str = "") -> Iterator[list[str]]:
    """A pod at ``address``; yields the requested paths."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if redirect and self.path == "/progress":
                self.send_response(302)
                self.send_header("Location", redirect)
                self.end_headers()
                return
            facts = {"eta_seconds": 75.0, "tokens_per_second": 1234.5}
            progress = builders.a_progress(Stage.TRAIN, updated_at=datetime.now(UTC), **facts)
            body = progress.model_dump_json(exclude_none=True).encode()
            self.send_response(200)
            self.end_headers()
            # In pieces: the first part is not the whole response.
            self.wfile.write(body[:20])
            self.wfile.flush()
            self.wfile.write(body[20:])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Discard the log."""

    server = http.server.ThreadingHTTPServer((address, PORT), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()


def own_address() -> str:
    """An address of this machine that is not loopback, to which the API server does not proxy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


VIA = [("PodAddress", LOOPBACK), ("ApiServer", own_address())]


@pytest.mark.parametrize(("via", "address"), VIA, ids=[via for via, _ in VIA])
class TestProgress:
    def test_is_in_the_status(
        self, desk: Desk, start_operator: Callable[..., Operator], via: str, address: str
    ) -> None:
        start_operator(admin=True, progressVia=via)
        with pod_that_answers(address):
            desk.kubelet = Kubelet(desk.api, address)
            desk.apply()
            desk.kubelet.run(desk.run_to("train"))
            status = desk.until(lambda status: status.get("progress", {}).get("eta"), "the progress is in the status")
        assert (status["progress"]["text"], status["progress"]["eta"]) == ("train 40/120", "1m15s")
        assert status["progress"]["tokensPerSecond"] == 1234.5

    def test_run_from_before_a_restart_is_polled_before_it_counts_as_stalled(
        self, desk: Desk, start_operator: Callable[..., Operator], via: str, address: str
    ) -> None:
        """A restarted or upgraded operator must not stop every run that is older than the timeout."""
        first = start_operator(admin=True, progressVia=via)
        desk.kubelet = Kubelet(desk.api, address)
        desk.apply(resilience={"stallTimeoutSeconds": 60})
        child = desk.run_to("train")
        first.kill()
        desk.kubelet.run(child, since="2026-01-01T00:00:00Z")
        with pod_that_answers(address):
            start_operator(admin=True, progressVia=via)
            status = desk.until(lambda status: status.get("progress", {}).get("eta"), "the progress is in the status")
        assert "failure" not in status
        assert stage(status, "train")["state"] == "Running"

    def test_redirect_by_a_pod_is_not_followed(
        self, desk: Desk, start_operator: Callable[..., Operator], via: str, address: str
    ) -> None:
        operator = start_operator(admin=True, progressVia=via)
        with pod_that_answers(address, redirect=f"http://{address}:{PORT}/elsewhere") as requests:
            desk.kubelet = Kubelet(desk.api, address)
            desk.apply()
            child = desk.run_to("train")
            desk.kubelet.run(child)
            wait_until(lambda: len(requests) >= 2, "it was polled twice")
            desk.kubelet.succeed(child)
            desk.child("evaluate")
        assert set(requests) == {"/progress"}
        assert operator.http("/healthz")[0] == 200
