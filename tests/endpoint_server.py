"""A small server with the API of OpenAI, which can misbehave in every way that the tests need."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.tls import serving


@dataclass(frozen=True)
class Reply:
    """What the server sends."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    """Bytes of the body that are announced and not sent."""


def answer(content: Any, finish: str | None = "stop", usage: bool = True, **message: Any) -> Reply:
    """A whole answer of 10 + 5 tokens."""
    counted = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}} if usage else {}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return document(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], **counted}
    )


def document(content: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})


def error(status: int, message: str = "oops", code: str | None = None, **headers: str) -> Reply:
    return document({"error": {"message": message, "code": code}}, status, **headers)


@dataclass
class Endpoint:
    """A running server."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the requests, in order."""
    keys: list[str | None] = field(default_factory=list)
    """The values of ``Authorization``."""
    times: list[float] = field(default_factory=list)
    """Monotonic times of the requests."""
    most_at_once: int = 0

    def prompts(self) -> Counter[str]:
        """How often each last message was asked."""
        return Counter(one["messages"][-1]["content"] for one in self.asked)


Respond = Callable[[str, int], Reply | None]
"""The reply to the last message, which was asked that many times, this time included; None closes the connection."""


@contextmanager
def endpoint(
    respond: Respond, certificate: tuple[Path, Path] | None = None, address: str = "127.0.0.1"
) -> Iterator[Endpoint]:
    """A server that replies with ``respond``, with TLS if there is a certificate."""
    lock = threading.Lock()
    active = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal active
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                active += 1
                running.asked.append(body)
                running.keys.append(self.headers.get("Authorization"))
                running.times.append(time.monotonic())
                running.most_at_once = max(running.most_at_once, active)
                prompt = body["messages"][-1]["content"]
                count = running.prompts()[prompt]
            try:
                reply = respond(prompt, count) if self.path == "/v1/chat/completions" else error(404, "no such path")
            finally:
                with lock:
                    active -= 1
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # The client may have given up.
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) - reply.cut])
            self.close_connection = reply.cut > 0

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    running = Endpoint("")
    with serving(Handler, certificate, address) as url:
        running.url = f"{url}/v1"
        yield running
