"""HTTP requests to one API server.

The ``kubernetes`` package reads the kubeconfig or the pod's service account, sets up TLS and refreshes the token. The
requests go straight to aiohttp: the package's own request path copies every body and costs as much CPU again.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")
"""Characters that JSON does not escape and that YAML accepts only when they are escaped."""
_READ_BUFFER_BYTES = 2**21
"""One line of a watch is one object, and may be larger than aiohttp's default buffer."""


class Connection:
    """A pool of connections to one API server. Use it in an ``async with``."""

    def __init__(self, configuration: Configuration, user_agent: str) -> None:
        self._configuration = configuration
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession
        self._options: dict[str, Any] = {}

    @property
    def host(self) -> str:
        """The URL of the API server."""
        return str(self._configuration.host)

    async def __aenter__(self) -> Connection:
        configuration = self._configuration
        tls = RESTClientObject(configuration)  # It opens no connection before its first request, which never comes.
        # aiohttp would read the environment and ~/.netrc in a thread for each request; here they are read once.
        self._options["proxy"] = configuration.proxy or proxy_of_environment(self.host)
        if configuration.proxy_headers:
            self._options["proxy_headers"] = configuration.proxy_headers
        if configuration.tls_server_name:
            self._options["server_hostname"] = configuration.tls_server_name
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=configuration.connection_pool_maxsize, ssl=tls.ssl_context),
            headers={"User-Agent": self._user_agent},
            read_bufsize=_READ_BUFFER_BYTES,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        allow_redirects: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; the body of the response can be read until the end of the block.

        ``path`` is percent-encoded, as `path_of` returns it.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: The API server cannot be reached, or stops to answer.
        """
        headers = {"Accept": accept}
        # A service account's token is replaced every hour: the configuration reads it again.
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = encoded(body)
        async with self._session.request(
            method,
            URL(self.host + path, encoded=True),
            headers=headers,
            data=data,
            timeout=timeout,
            allow_redirects=allow_redirects,
            **self._options,
        ) as response:
            yield response


def encoded(body: Mapping[str, Any]) -> bytes:
    """``body`` as JSON that is valid YAML too.

    The API server parses a server-side apply as YAML, which refuses a pair of ``\\uXXXX`` escapes, JSON's form of an
    emoji. So characters are sent as they are, and only those that YAML wants escaped are escaped.
    """
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode(errors="replace")


def path_of(group: str, resource: str, namespace: str | None, name: str | None = None) -> str:
    """The path of a resource, or with ``name`` of an object, in one namespace or in all.

    ``group`` is the prefix with the version, such as ``/apis/batch/v1``.
    """
    place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{group}{place}/{resource}" + (f"/{quote(name, safe=':')}" if name else "")


def proxy_of_environment(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for ``url``."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(parts.scheme)
