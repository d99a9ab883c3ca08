"""Responses of /progress are not trusted: invalid ones must not harm their job, other jobs or the operator."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from finetune_api.stage import Stage
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, condition
from tests.builders import a_progress
from tests.ports import LOOPBACK

SETTINGS = {"progressSeconds": 0.1, "resyncSeconds": 1}

Changes = dict[str, Any]
HUGE = 10**30
_numbers = itertools.count(1)


Answer = Callable[[BaseHTTPRequestHandler], None]


def body(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65536)


def trickle(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" ")
        time.sleep(0.05)


def silence(_: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


def garbage(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"\x00\xff" * 1000)


def progress(**facts: Any) -> bytes:
    progress = a_progress(Stage.PREPARE).model_dump(mode="json", exclude_none=True)
    return json.dumps({**progress, "updatedAt": time.time(), **facts}).encode()


ANSWERS: dict[str, Answer] = {
    "one megabyte": body(progress(activity="x" * 1_000_000)),
    "endless": endless,
    "a byte at a time": trickle,
    "silence": silence,
    "no HTTP": garbage,
    "not JSON": body(b"<html>"),
    "not UTF-8": body(b"\xff\xfe{"),
    "nothing": body(b""),
    "an error with a progress": body(progress(activity="lying"), 500),
    "not found": body(progress(activity="lying"), 404),
    "a list": body(b"[]"),
    "nested deeply": body(b'{"stage":' * 5000),
    "wrong types": body(progress(done="40")),
    "unknown fields": body(progress(extra=1, activity="lying")),
    "a null twice": body(b'{"stage":"prepare","attempt":null,"attempt":null,"updatedAt":1,"activity":"lying"}'),
    "more done than there are numbers": body(progress(done=HUGE, total=HUGE)),
    "a number of 5000 digits": body(progress(done=7).replace(b"7", b"7" * 5000)),
    "less done than nothing": body(progress(done=-1)),
    "an end in 1e300 seconds": body(progress(eta_seconds=1e300, etaSeconds=1e300)),
    "an infinite end": body(progress(etaSeconds=float("inf"))),
    "a time beyond the calendar": body(progress(updatedAt=1e300)),
    "a time before the calendar": body(progress(updatedAt=-1e300)),
    "a checkpoint beyond all steps": body(progress(checkpoint={"step": HUGE, "uri": "s3://a"})),
    "another stage": body(progress(stage="train", activity="lying")),
    "another attempt": body(progress(attempt=2, activity="lying")),
    "compressed": body(b"\x1f\x8b" + b"\x00" * 1000, **{"Content-Encoding": "gzip"}),
}
"""Responses that no real stage sends; none may be shown."""

TAKEN: dict[str, tuple[Answer, str]] = {
    "the largest numbers": (
        body(progress(done=2**53 - 1, total=2**53 - 1)),
        "prepare 9007199254740991/9007199254740991",
    ),
    "the longest time": (body(progress(etaSeconds=2**53 - 1)), "prepare 40/120"),
    "more done than there is": (body(progress(done=7, total=3)), "prepare 7/3"),
    "nothing to do": (body(progress(done=0, total=0)), "prepare 0/0"),
    "a long activity": (body(progress(activity="x" * 200, done=None, total=None)), "prepare: " + "x" * 200),
    "control characters": (body(progress(activity="a\u0000b\u001b[31m", done=None)), "prepare: a b"),
    "a loss of NaN": (body(progress(loss=float("nan"))), "prepare 40/120"),
    "a huge loss": (body(progress(loss=1e308, tokensPerSecond=1.7e308)), "prepare 40/120"),
    "a time far in the future": (body(progress(updatedAt=4e9)), "prepare 40/120"),
}
"""Odd but valid progress, and the text that the status shows."""


class Speaker:
    """Serves /progress of a pod, with the response of the test."""

    def __init__(self, port: int = 9400) -> None:
        self.answer: Answer = body(b"")
        self.requests: list[str] = []
        speaker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                speaker.requests.append(self.path)
                try:
                    speaker.answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def until_asked(self, times: int = 2) -> None:
        """Wait for the next request, so that the previous response has been processed."""
        before = len(self.requests)
        wait_until(lambda: len(self.requests) >= before + times, "the progress is polled", 30)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, 9400)) == 0:
            pytest.skip("somebody else listens on port 9400")
    speaker = Speaker()
    yield speaker
    speaker.close()


@pytest.fixture(scope="module")
def job(office: tuple[Desk, Operator]) -> str:
    """A job that runs as long as the tests of this module."""
    desk, _ = office
    desk.apply("talkative")
    desk.kubelet.run(desk.child("prepare", name="talkative"))
    return "talkative"


class TestProgress:
    @pytest.mark.parametrize("name", ANSWERS)
    def test_invalid_response_is_not_shown(
        self, office: tuple[Desk, Operator], job: str, speaker: Speaker, name: str
    ) -> None:
        desk, operator = office
        before = self.tell(desk, job, speaker)
        errors = self.errors(operator)
        speaker.answer = ANSWERS[name]
        # A pod without a response is waited for until the timeout.
        speaker.until_asked(1 if name in ("silence", "a byte at a time") else 4)
        status = desk.status(job)
        assert "lying" not in json.dumps(status)
        assert status["phase"] == "Preparing"
        assert status["progress"]["text"] == before
        assert condition(status, "Ready")["reason"] == "Progressing"
        self.tell(desk, job, speaker)
        assert self.errors(operator) == errors
        assert operator.http("/healthz")[0] == 200

    @pytest.mark.parametrize("name", TAKEN)
    def test_odd_values_are_shown_within_bounds(
        self, office: tuple[Desk, Operator], job: str, speaker: Speaker, name: str
    ) -> None:
        desk, _ = office
        self.tell(desk, job, speaker)
        speaker.answer, text = TAKEN[name]
        desk.until(lambda status: status.get("progress", {}).get("text") == text, f"{text} is shown", job)

    def test_redirects_are_not_followed(self, office: tuple[Desk, Operator], job: str, speaker: Speaker) -> None:
        desk, _ = office
        self.tell(desk, job, speaker)
        elsewhere = Speaker(0)
        elsewhere.answer = body(progress(activity="lying", done=None))
        speaker.answer = body(b"", 302, Location=f"http://{LOOPBACK}:{elsewhere.port}/progress")
        speaker.until_asked(3)
        assert elsewhere.requests == []
        assert "lying" not in json.dumps(desk.status(job))
        elsewhere.close()

    def test_unresponsive_pod_does_not_delay_other_jobs(
        self, office: tuple[Desk, Operator], job: str, speaker: Speaker
    ) -> None:
        desk, _ = office
        speaker.answer = silence
        speaker.until_asked(1)
        desk.apply("beside")
        desk.run_all("beside")

    def test_unresponsive_pod_does_not_delay_the_end_of_its_job(
        self, office: tuple[Desk, Operator], job: str, speaker: Speaker
    ) -> None:
        desk, _ = office
        speaker.answer = body(progress(etaSeconds=1e300))
        speaker.until_asked()
        status = desk.run_all(job)
        assert "progress" not in status

    @staticmethod
    def errors(operator: Operator) -> float:
        """The number of failed reconciles."""
        return operator.metric("finetune_reconcile_errors_total")

    @staticmethod
    def tell(desk: Desk, job: str, speaker: Speaker) -> str:
        """Have a valid progress shown; returns its text."""
        activity = f"honest {next(_numbers)}"
        speaker.answer = body(progress(activity=activity, done=None, total=None))
        text = f"prepare: {activity}"
        desk.until(lambda status: status.get("progress", {}).get("text") == text, "honesty is shown", job)
        return text
