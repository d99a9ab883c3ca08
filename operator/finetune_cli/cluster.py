"""The cluster and the namespace that a command works on, and its requests."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.base import KIND
from finetune_cli.refusals import FIELD_MANAGER, ClusterError, refusal
from finetune_kube.client import Client, Response
from finetune_kube.config import ConfigurationError, from_kubeconfig, from_service_account, pod_namespace
from finetune_kube.connection import APPLY_PATCH, JSON, MERGE_PATCH, Connection
from finetune_kube.errors import ApiError

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_WATCH_SECONDS = 290


@dataclass(frozen=True)
class Target:
    """The cluster and the namespace from the command line; None where the kubeconfig decides."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Cluster]:
    """A connection to the cluster of ``target``.

    Raises:
        ClusterError: There is no usable kubeconfig.
    """
    configuration, namespace = await _configuration(target)
    async with Connection(configuration, FIELD_MANAGER) as connection:
        client = Client(connection, _TIMEOUT)
        yield Cluster(client, target.namespace or namespace)


class NoCluster(ClusterError):
    """There is no kubeconfig."""


class Cluster:
    """One connection; every method may raise ClusterError."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self.namespace = namespace
        """The namespace of commands and manifests that do not name one."""

    async def get(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        """A FineTuneJob."""
        return (await self._send("GET", namespace or self.namespace, name)).object()

    async def list_jobs(self, all_namespaces: bool) -> dict[str, Any]:
        """The FineTuneJobs of the namespace, or of all, as the API server lists them."""
        return (await self._send("GET", None if all_namespaces else self.namespace)).object()

    async def table(self, name: str | None, all_namespaces: bool) -> dict[str, Any]:
        """One or all FineTuneJobs as a Table: the columns and rows that kubectl prints."""
        return (await self._send("GET", None if all_namespaces else self.namespace, name, accept=_TABLE)).object()

    async def apply(self, manifest: Mapping[str, Any], force: bool) -> tuple[dict[str, Any], bool]:
        """Apply a FineTuneJob on the server side; returns it and whether it was created."""
        meta = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        response = await self._send(
            "PATCH", meta["namespace"], meta["name"], query=query, body=manifest, content_type=APPLY_PATCH
        )
        return response.object(), response.code == 201

    async def patch(self, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a merge patch to a FineTuneJob."""
        query = {"fieldManager": FIELD_MANAGER}
        response = await self._send("PATCH", self.namespace, name, query=query, body=patch, content_type=MERGE_PATCH)
        return response.object()

    async def delete(self, name: str, uid: str) -> None:
        """Delete a FineTuneJob if it still has ``uid``; garbage collection deletes its pods."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._send("DELETE", self.namespace, name, body=body)

    async def pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The pods with ``labels``."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        with self._explained(self.namespace, None):
            response = await self._client.send("GET", "Pod", self.namespace, query={"labelSelector": selector})
        return list(response.object()["items"])

    async def log(self, pod: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """The log of a container in pieces; with ``follow`` until the container terminates."""
        query = {"container": container, "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        with self._explained(self.namespace, pod):
            async for piece in self._client.stream(
                "Pod", self.namespace, pod, "log", query=query, timeout=_STREAM_TIMEOUT
            ):
                yield piece

    async def watch(self, name: str) -> AsyncIterator[dict[str, Any] | None]:
        """A FineTuneJob now and after each change, None when it is deleted.

        The iterator may end at any time, as a watch does; call it again to continue.
        """
        query = {"fieldSelector": f"metadata.name={name}"}
        jobs = (await self._send("GET", self.namespace, query=query)).object()
        if not jobs["items"]:
            yield None
            return
        yield jobs["items"][0]
        query |= {
            "watch": "true",
            "resourceVersion": jobs["metadata"]["resourceVersion"],
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        rest = b""
        with self._explained(self.namespace, name):
            async for piece in self._client.stream(KIND, self.namespace, query=query, timeout=_STREAM_TIMEOUT):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    yield None if event["type"] == "DELETED" else event["object"]

    async def _send(
        self,
        method: str,
        namespace: str | None,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Response:
        with self._explained(namespace, name):
            return await self._client.send(
                method, KIND, namespace, name, query=query, body=body, content_type=content_type, accept=accept
            )

    @contextmanager
    def _explained(self, namespace: str | None, name: str | None) -> Iterator[None]:
        """Turn an ApiError into a ClusterError about the FineTuneJob ``name``."""
        try:
            yield
        except ApiError as error:
            raise refusal(error, self._client.host, namespace, name) from error


async def _configuration(target: Target) -> tuple[Any, str]:
    """The client configuration, and the namespace of the context or the pod."""
    given = target.kubeconfig or os.environ.get("KUBECONFIG")
    paths = given.split(os.pathsep) if given else [str(Path.home() / ".kube" / "config")]
    existing = [path for path in paths if path and Path(path).expanduser().is_file()]
    if existing:
        files = os.pathsep.join(existing)
        try:
            return await from_kubeconfig(files, target.context, persist=False)
        except ConfigurationError as error:
            what = f"context {target.context!r} cannot be used" if target.context else "it cannot be used"
            raise ClusterError(f"Kubeconfig {files}: {what}: {error}", code=400) from error
    if target.kubeconfig or target.context or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        what = f"there is no kubeconfig at {' or '.join(paths)}"
        raise NoCluster(f"No cluster: {what}; set --kubeconfig or KUBECONFIG.", code=400)
    try:
        return from_service_account(), pod_namespace()
    except ConfigurationError as error:
        raise ClusterError(f"No cluster: {error}", code=400) from error
