"""A client of the API server with as little overhead as possible in Python."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp

from tests.apiserver.api import APPLY, JSON, MERGE, Api, Refused
from tests.apiserver.control_plane import ControlPlane

_WRITERS = 16
_NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TIMEOUT = aiohttp.ClientTimeout(total=120)
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)

Item = TypeVar("Item")


class WaitTimeout(Exception):
    """A wait timed out; the message says what it waited for."""


class PlainClient:
    """A session with the API server as administrator, which sends bodies unchanged. Use it in an ``async with``."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._paths = Api(plane.url, plane.ca, plane.admin_token)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> PlainClient:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        context.check_hostname = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            headers={"Authorization": f"Bearer {self._plane.admin_token}"},
            timeout=_TIMEOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def apply(self, kind: str, namespace: str, name: str, body: bytes, part: str = "") -> bytes:
        """Server-side apply; ``part`` is a subresource such as ``/status``."""
        path = self._paths.path(kind, namespace, name) + part
        return await self.send("PATCH", f"{path}?fieldManager=bench&force=true", body, APPLY)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        path = self._paths.path(kind, namespace) + part
        return dict(json.loads(await self.send("POST", path, json.dumps(body).encode())))

    async def merge_status(self, kind: str, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        path = self._paths.path(kind, namespace, name) + "/status"
        await self.send("PATCH", path, json.dumps({"status": status}).encode(), MERGE)

    async def list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        answer = await self.send("GET", self._paths.path(kind, namespace))
        return list(json.loads(answer)["items"])

    async def delete_all(self, kind: str, namespace: str) -> None:
        options = urlencode({"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
        for last in (False,) * 4 + (True,):
            try:
                await self.send("DELETE", f"{self._paths.path(kind, namespace)}?{options}")
                return
            except Refused as error:
                # Deleting many objects can exceed the request timeout: the next request continues.
                if last or error.code != 504:
                    raise

    async def send(self, method: str, path: str, body: bytes | None = None, content_type: str = JSON) -> bytes:
        """Send one request and return the body of the response.

        Raises:
            Refused: The response has an error code.
        """
        headers = {"Content-Type": content_type, "Accept": JSON}
        async with self._session.request(method, self._plane.url + path, data=body, headers=headers) as response:
            answer = await response.read()
            if not response.ok:
                raise Refused(response.status, json.loads(answer or b"{}"))
            return answer

    async def text(self, url: str) -> str:
        """The response of another server on this machine."""
        async with self._session.get(url) as response:
            return await response.text()

    @asynccontextmanager
    async def child_watch(self, namespace: str) -> AsyncIterator[ChildWatch]:
        """Watch the Jobs of a namespace until the end of the block."""
        watch = ChildWatch()
        url = f"{self._plane.url}{self._paths.path('Job', namespace)}?watch=true"
        task = asyncio.create_task(watch.follow(self._session, url))
        try:
            await watch.open.wait()
            yield watch
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class ChildWatch:
    """When the API server reported the child Job of each FineTuneJob."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.open = asyncio.Event()
        self._news = asyncio.Event()

    async def follow(self, session: aiohttp.ClientSession, url: str) -> None:
        """Watch until cancelled. When the API server ends a watch, the next one lists the existing objects."""
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(url, headers={"Accept": _NAMES_ONLY}, timeout=_NO_TIMEOUT) as response:
                    self.open.set()
                    async for line in response.content:
                        self._take(json.loads(line), time.monotonic())
            await asyncio.sleep(0.1)

    def _take(self, event: Mapping[str, Any], now: float) -> None:
        labels = event["object"].get("metadata", {}).get("labels", {})
        if event["type"] == "ADDED" and (job := labels.get("finetune.dev/job")):
            self.seen.setdefault(job, now)
            self._news.set()

    async def until(self, predicate: Callable[[dict[str, float]], bool], what: str, seconds: float) -> None:
        """Wait until ``predicate`` is true for the Jobs observed so far.

        Raises:
            WaitTimeout: It is not within ``seconds``.
        """
        try:
            async with asyncio.timeout(seconds):
                while not predicate(self.seen):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise WaitTimeout(f"timed out after {seconds:.0f} s: {what}; {len(self.seen)} Jobs observed") from None


async def in_parallel(work: Callable[[Item], Awaitable[object]], items: Iterable[Item]) -> None:
    """Run ``work`` for each item, for sixteen items at a time."""
    rest = iter(items)

    async def writer() -> None:
        for item in rest:
            await work(item)

    await asyncio.gather(*(writer() for _ in range(_WRITERS)))
