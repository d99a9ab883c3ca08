"""A proxy in front of the API server that simulates failures of the network and of a busy API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.apiserver.control_plane import ControlPlane
from tests.ports import free_port


@dataclass(frozen=True)
class Request:
    """A request that passes through the proxy."""

    method: str
    path: str
    body: bytes

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def name(self) -> str:
        """The object of the request; a create request names it only in the body."""
        if self.method == "POST":
            return str(json.loads(self.body)["metadata"]["name"])
        return self.path.partition("?")[0].removesuffix("/status").rpartition("/")[2]


@dataclass
class Faults:
    """The behaviour of the proxy; may be changed while it runs, from any thread."""

    answer: Callable[[Request], web.Response | None] = lambda _: None
    """A response instead of the API server's; None forwards the request."""
    answered: Callable[[Request], None] = lambda _: None
    """Called after the API server has responded, before the operator receives the response."""
    hold_watches: threading.Event = field(default_factory=threading.Event)
    """While it is set, watches deliver no events."""


class Proxy:
    """Plain HTTP in front of an API server."""

    def __init__(self, plane: ControlPlane, faults: Faults) -> None:
        self._plane = plane
        self.faults = faults
        self.port = free_port()
        self.requests: list[Request] = []
        self._watches: dict[asyncio.Task[object], str] = {}
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drop_watches(self, of: str = "") -> None:
        """Close every open watch with this in its path."""

        def drop() -> None:
            for watch, path in tuple(self._watches.items()):
                if of in path:
                    watch.cancel()

        self._loop.call_soon_threadsafe(drop)

    async def _handle(self, incoming: web.Request) -> web.StreamResponse:
        watching = incoming.query.get("watch") == "true"
        body = await incoming.read()
        request = Request(incoming.method, incoming.path_qs, body)
        self.requests.append(request)
        if instead := self.faults.answer(request):
            return instead
        if watching:
            return await self._watch(incoming)
        headers = {name: value for name, value in incoming.headers.items() if name not in ("Host", "Content-Length")}
        assert self._session
        async with self._session.request(
            incoming.method, self._plane.url + incoming.path_qs, headers=headers, data=body or None
        ) as answer:
            content = await answer.read()
            self.faults.answered(request)
            return web.Response(status=answer.status, body=content, headers={"Content-Type": "application/json"})

    async def _watch(self, incoming: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        task = asyncio.current_task()
        assert task
        assert self._session
        self._watches[task] = incoming.path_qs
        headers = {"Authorization": incoming.headers.get("Authorization", "")}
        try:
            async with self._session.get(self._plane.url + incoming.path_qs, headers=headers) as answer:
                if answer.status != 200:
                    return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")
                await response.prepare(incoming)
                async for line in answer.content:
                    while self.faults.hold_watches.is_set():
                        await asyncio.sleep(0.01)
                    await response.write(line)
        finally:
            del self._watches[task]
        return response

    async def _serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        context.check_hostname = False
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**22
        ) as session:
            self._session = session
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            started.set()
            await stop.wait()
            await runner.cleanup()


@contextmanager
def proxied(plane: ControlPlane, faults: Faults | None = None) -> Iterator[Proxy]:
    """A proxy that is closed at the end of the context."""
    proxy = Proxy(plane, faults or Faults())
    started, stop = threading.Event(), asyncio.Event()

    def serve() -> None:
        asyncio.set_event_loop(proxy._loop)
        with contextlib.suppress(asyncio.CancelledError):
            proxy._loop.run_until_complete(proxy._serve(started, stop))
        proxy._loop.close()

    thread = threading.Thread(target=serve, name="proxy", daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def refusal(code: int, reason: str, message: str, retry_after: int | None = None) -> web.Response:
    """An error in the format of the API server."""
    status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    return web.json_response(status, status=code, headers=headers)
