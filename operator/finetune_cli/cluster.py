"""The cluster as the command sees it: which one it is, and everything that is read and written there."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from finetune_api.base import API_GROUP, API_VERSION
from finetune_cli.refusals import FIELD_MANAGER, ClusterError, refusal
from finetune_kube.connection import APPLY_PATCH, JSON, MERGE_PATCH, Connection, path_of

_JOBS = (f"/apis/{API_GROUP}/{API_VERSION}", "finetunejobs")
_PODS = ("/api/v1", "pods")
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_WATCH_SECONDS = 290
_NAMESPACE_OF_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Where:
    """Which cluster and namespace a person means; None is what the kubeconfig says."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Cluster]:
    """The cluster.

    Raises:
        ClusterError: It is not known which.
    """
    configuration = Configuration()
    namespace = await _configure(configuration, where)
    async with Connection(configuration, FIELD_MANAGER) as connection:
        yield Cluster(connection, where.namespace or namespace, namespace_is_given=bool(where.namespace))


class Cluster:
    """One connection; every method may raise ClusterError."""

    def __init__(self, connection: Connection, namespace: str, namespace_is_given: bool) -> None:
        self._connection = connection
        self.namespace = namespace
        """The one that is meant where nothing else is said."""
        self.namespace_is_given = namespace_is_given
        """Whether it was named on the command line."""

    async def get(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        """A FineTuneJob."""
        return await self._request("GET", _JOBS, namespace or self.namespace, name)

    async def list_jobs(self, everywhere: bool) -> dict[str, Any]:
        """All FineTuneJobs of the namespace, or of all, as the API server lists them."""
        return await self._request("GET", _JOBS, None if everywhere else self.namespace)

    async def table(self, name: str | None, everywhere: bool) -> dict[str, Any]:
        """The same as a table, with the columns and the rows that kubectl prints."""
        return await self._request("GET", _JOBS, None if everywhere else self.namespace, name, accept=_TABLE)

    async def apply(self, manifest: Mapping[str, Any], force: bool) -> tuple[dict[str, Any], bool]:
        """Apply a FineTuneJob on the server; returns it and whether it is new."""
        meta = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        path = path_of(*_JOBS, meta["namespace"], meta["name"])
        about = (meta["namespace"], meta["name"])
        code, content = await self._send("PATCH", path, about, query=query, body=manifest, content_type=APPLY_PATCH)
        return json.loads(content), code == 201

    async def patch(self, name: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a change into a FineTuneJob."""
        query = {"fieldManager": FIELD_MANAGER}
        path, about = path_of(*_JOBS, self.namespace, name), (self.namespace, name)
        return dict(
            json.loads((await self._send("PATCH", path, about, query=query, body=change, content_type=MERGE_PATCH))[1])
        )

    async def delete(self, name: str, uid: str) -> None:
        """Delete a FineTuneJob, if it is still the one with ``uid``; its pods follow."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._send("DELETE", path_of(*_JOBS, self.namespace, name), (self.namespace, name), body=body)

    async def pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The pods with ``labels``."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return list((await self._request("GET", _PODS, self.namespace, query={"labelSelector": selector}))["items"])

    async def log(self, pod: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """What a container wrote, in pieces; with ``follow`` until it ends."""
        query = {"container": container, "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = f"{path_of(*_PODS, self.namespace, pod)}/log?{urlencode(query)}"
        async for piece in self._stream(path, (self.namespace, pod)):
            yield piece

    async def changes(self, name: str) -> AsyncIterator[dict[str, Any] | None]:
        """A FineTuneJob now and after each change, None when it is deleted; ends at any time and can be begun again."""
        query = {"fieldSelector": f"metadata.name={name}"}
        listed = await self._request("GET", _JOBS, self.namespace, query=query)
        if not listed["items"]:
            yield None
            return
        yield listed["items"][0]
        query |= {
            "watch": "true",
            "resourceVersion": listed["metadata"]["resourceVersion"],
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        rest = b""
        async for piece in self._stream(
            f"{path_of(*_JOBS, self.namespace)}?{urlencode(query)}", (self.namespace, name)
        ):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield None if event["type"] == "DELETED" else event["object"]

    async def _request(
        self,
        method: str,
        kind: tuple[str, str],
        namespace: str | None,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        path = path_of(*kind, namespace, name)
        return dict(json.loads((await self._send(method, path, (namespace, name), query=query, accept=accept))[1]))

    async def _send(
        self,
        method: str,
        path: str,
        about: tuple[str | None, str | None],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> tuple[int, bytes]:
        if query:
            path += f"?{urlencode(query)}"
        try:
            asked = self._connection.request(
                method, path, _TIMEOUT, body=body, content_type=content_type, accept=accept
            )
            async with asked as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        if not 200 <= response.status < 300:
            raise refusal(response.status, content, *about)
        return response.status, content

    async def _stream(self, path: str, about: tuple[str | None, str | None]) -> AsyncIterator[bytes]:
        try:
            asked = self._connection.request("GET", path, _STREAM_TIMEOUT, accept="application/json, */*")
            async with asked as response:
                if not 200 <= response.status < 300:
                    raise refusal(response.status, await response.read(), *about)
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ClusterError:
        return ClusterError(f"The cluster at {self._connection.host} cannot be reached: {_told(error)}.")


def _told(error: Exception) -> str:
    """Why there was no answer, without the words of the libraries where the system has its own."""
    number = getattr(getattr(error, "os_error", error), "errno", None)
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if number and number > 0:
        return os.strerror(number).lower()
    return str(error).rstrip(".") or type(error).__name__


async def _configure(configuration: Configuration, where: Where) -> str:
    """Fill ``configuration``; returns the namespace that is meant where none is said."""
    named = where.kubeconfig or os.environ.get("KUBECONFIG")
    paths = named.split(os.pathsep) if named else [str(Path.home() / ".kube" / "config")]
    there = [path for path in paths if path and Path(path).expanduser().is_file()]
    if there:
        return await _from_kubeconfig(configuration, os.pathsep.join(there), where.context)
    if where.kubeconfig or where.context or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        told = f"there is no kubeconfig at {' or '.join(paths)}"
        raise ClusterError(f"No cluster: {told}; say where it is with --kubeconfig or KUBECONFIG.", code=400)
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise ClusterError(f"No cluster: {error}", code=400) from error
    return _NAMESPACE_OF_POD.read_text().strip() if _NAMESPACE_OF_POD.is_file() else "default"


async def _from_kubeconfig(configuration: Configuration, paths: str, context: str | None) -> str:
    try:
        loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=paths, context=context, client_configuration=configuration, persist_config=False
        )
        return str(loader.current_context["context"].get("namespace") or "default")
    except Exception as error:
        # A file that is no kubeconfig fails in there in any way.
        told = f"context {context!r} cannot be used" if context else "it cannot be used"
        raise ClusterError(f"Kubeconfig {paths}: {told}: {error}", code=400) from error
