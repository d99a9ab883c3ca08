"""Requests for Kubernetes objects: paths, JSON bodies, and errors as ApiError."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.tables.kinds import Kind
from finetune_kube.connection import JSON, Connection, path_of
from finetune_kube.errors import decode, unreachable

KINDS = {
    KIND: (f"/apis/{API_GROUP}/{API_VERSION}", Kind.FINE_TUNE_JOB.plural),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "Event": ("/api/v1", "events"),
}
"""API prefix and resource name of each kind."""

OnResponse = Callable[[str, str, int], None]
"""Called with method, resource and status code of each request; code 0 if there was no response."""

_CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError)


class Response(NamedTuple):
    """A successful response."""

    code: int
    content: bytes

    def object(self) -> dict[str, Any]:
        """The object or list in the body."""
        decoded: dict[str, Any] = json.loads(self.content)
        return decoded


class Client:
    """Sends requests on one Connection; each method raises ApiError if a request fails."""

    def __init__(
        self, connection: Connection, timeout: aiohttp.ClientTimeout, on_response: OnResponse | None = None
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._on_response = on_response

    @property
    def host(self) -> str:
        """The URL of the API server."""
        return self._connection.host

    async def send(
        self,
        method: str,
        kind: str,
        namespace: str | None,
        name: str | None = None,
        subresource: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Response:
        """Send one request about a kind, or with ``name`` about one object, and read the whole response."""
        path = _path(kind, namespace, name, subresource, query)
        code, reason, retry_after = 0, "", ""
        try:
            request = self._connection.request(
                method, path, self._timeout, body=body, content_type=content_type, accept=accept
            )
            async with request as response:
                code, reason = response.status, response.reason or ""
                retry_after = response.headers.get("Retry-After", "")
                content = await response.read()
        except _CONNECTION_ERRORS as error:
            raise unreachable(error) from error
        finally:
            self._count(method, kind, code)
        if not 200 <= code < 300:
            raise decode(code, reason, content, retry_after)
        return Response(code, content)

    async def stream(
        self,
        kind: str,
        namespace: str | None,
        name: str | None = None,
        subresource: str | None = None,
        *,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[bytes]:
        """The body of a GET response in pieces, as they arrive: a watch or a log."""
        path = _path(kind, namespace, name, subresource, query)
        try:
            async with self._connection.request("GET", path, timeout, accept="application/json, */*") as response:
                self._count("GET", kind, response.status)
                if not 200 <= response.status < 300:
                    raise decode(response.status, response.reason or "", await response.read())
                async for piece in response.content.iter_any():
                    yield piece
        except _CONNECTION_ERRORS as error:
            raise unreachable(error) from error

    async def get_through_proxy(
        self, pod: tuple[str, str], port: int, path: str, *, limit: int, timeout: aiohttp.ClientTimeout
    ) -> bytes:
        """At most ``limit`` bytes of a pod's response, read through the API server; empty if it is not a 200.

        ``pod`` is namespace and name.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: There was no response.
        """
        url_path = f"{_path('Pod', pod[0], f'{pod[1]}:{port}', 'proxy')}{path}"
        # The pod is not trusted: it must not redirect the operator, nor send more than ``limit``.
        request = self._connection.request("GET", url_path, timeout, accept="*/*", allow_redirects=False)
        async with request as response:
            self._count("GET", "Pod", response.status)
            return await read_up_to(response.content, limit) if response.status == 200 else b""

    def _count(self, method: str, kind: str, code: int) -> None:
        if self._on_response:
            self._on_response(method, KINDS[kind][1], code)


async def read_up_to(content: aiohttp.StreamReader, limit: int) -> bytes:
    """The content until its end, or its first ``limit`` bytes."""
    read = b""
    while len(read) < limit and (part := await content.read(limit - len(read))):
        read += part
    return read


def _path(
    kind: str,
    namespace: str | None,
    name: str | None = None,
    subresource: str | None = None,
    query: Mapping[str, str] | None = None,
) -> str:
    path = path_of(*KINDS[kind], namespace, name)
    if subresource:
        path += f"/{subresource}"
    return f"{path}?{urlencode(query)}" if query else path
