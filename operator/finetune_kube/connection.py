"""HTTP requests to one API server.

The ``kubernetes`` package reads the kubeconfig or the service account, sets up TLS and refreshes the token. Requests
use aiohttp directly: the request path of that package copies every body and doubles the CPU time.
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
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON does not escape, and that YAML keeps only as escapes."""
_READ_BUFFER_BYTES = 2**21
"""One line of a watch is one object, which may exceed aiohttp's default buffer."""


class Connection:
    """A connection pool for one API server; an async context manager."""

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
        tls = RESTClientObject(configuration)  # Used for its TLS context only; it opens no connection.
        # With trust_env, aiohttp reads the environment and ~/.netrc in a thread for each request; here it is read once.
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
        """Send one request; the response body can be read inside the context.

        ``path`` is percent-encoded, as `path_of` returns it.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: The API server cannot be reached, or does not respond in time.
        """
        headers = {"Accept": accept}
        # The token of a service account changes every hour; the configuration reloads it.
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
    """``body`` as JSON that is also valid YAML.

    The API server parses a server-side apply as YAML, which rejects surrogate pairs of ``\\uXXXX`` escapes, JSON's form
    of an emoji. So characters are not escaped, except those that YAML requires to be.
    """
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode(errors="replace")


def path_of(group: str, resource: str, namespace: str | None, name: str | None = None) -> str:
    """The URL path of a resource, or with ``name`` of an object, in one namespace or in all.

    ``group`` is the API prefix with version, such as ``/apis/batch/v1``.
    """
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{group}{scope}/{resource}" + (f"/{quote(name, safe=':')}" if name else "")


def proxy_of_environment(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for ``url``."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(parts.scheme)
