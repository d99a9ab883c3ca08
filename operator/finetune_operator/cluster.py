"""The Kubernetes API: everything that the operator reads and writes there, beside Kopf's watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_core import names
from finetune_kube.client import Client
from finetune_kube.config import ConfigurationError, from_kubeconfig, from_service_account
from finetune_kube.connection import APPLY_PATCH, JSON, MERGE_PATCH, Connection
from finetune_kube.errors import ApiError
from finetune_kube.objects import Key, version_of
from finetune_operator.metrics import Metrics

PAGE = 100
"""Objects that are read at a time: whole pods are large, and a process does not give memory back."""
_TIMEOUT = aiohttp.ClientTimeout(total=30)
PROXY_TIMEOUT = aiohttp.ClientTimeout(total=5)

WATCHED = (KIND, "Job", "Pod")
"""What the operator keeps in its cache."""


class NoCluster(Exception):
    """There is no API server to ask; the message says why."""


@dataclass(frozen=True)
class Page:
    """Some of the objects of a kind at one moment."""

    items: list[dict[str, Any]]
    version: int


@asynccontextmanager
async def connected(metrics: Metrics) -> AsyncIterator[Cluster]:
    """The cluster that this pod runs in, or that the kubeconfig names.

    Raises:
        NoCluster: There is neither.
    """
    try:
        configuration = from_service_account()
    except ConfigurationError:
        try:
            configuration, _ = await from_kubeconfig()
        except ConfigurationError as error:
            raise NoCluster(f"this is not a pod of a cluster, and there is no usable kubeconfig: {error}") from error
    async with Connection(configuration, names.FIELD_MANAGER) as connection:
        yield Cluster(connection, metrics)


class Cluster:
    """One connection to the API server; every method may raise ApiError."""

    def __init__(self, connection: Connection, metrics: Metrics) -> None:
        self._client = Client(connection, _TIMEOUT, metrics.count_api_request)

    async def pages(self, kind: str, namespace: str | None) -> AsyncIterator[Page]:
        """Every object of a watched kind, some at a time; of Jobs and pods those that are ours."""
        query: dict[str, str] = {"limit": str(PAGE)}
        if kind != KIND:
            query["labelSelector"] = names.JOB_LABEL
        while True:
            page = await self._request("GET", kind, namespace, query=query)
            yield Page(page["items"], version_of(page))
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def list_pods(self, job: Key) -> list[dict[str, Any]]:
        """Every pod of one child Job, as it is now."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job[1]}"}
        listed = await self._request("GET", "Pod", job[0], query=query)
        return list(listed["items"])

    async def get(self, kind: str, key: Key) -> dict[str, Any]:
        return await self._request("GET", kind, key[0], key[1])

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, or find that it is as it should be. A field that somebody else set otherwise is a 409."""
        metadata = manifest["metadata"]
        return await self._request(
            "PATCH",
            manifest["kind"],
            metadata["namespace"],
            metadata["name"],
            query={"fieldManager": names.FIELD_MANAGER},
            body=manifest,
            content_type=APPLY_PATCH,
        )

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, which costs the API server half of what `apply` does; one that is there is a 409."""
        namespace = manifest["metadata"]["namespace"]
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("POST", manifest["kind"], namespace, query=query, body=manifest)

    async def write_status(self, key: Key, uid: str, version: int, status: Mapping[str, Any]) -> dict[str, Any]:
        """Write the status of a FineTuneJob, if it is still at ``version``; otherwise a 409."""
        manifest = {
            "apiVersion": f"{API_GROUP}/{API_VERSION}",
            "kind": KIND,
            "metadata": {"name": key[1], "namespace": key[0], "uid": uid, "resourceVersion": str(version)},
            "status": status,
        }
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        return await self._request(
            "PATCH", KIND, key[0], key[1], "status", query=query, body=manifest, content_type=APPLY_PATCH
        )

    async def stop(self, job: Key) -> dict[str, Any]:
        """End a child Job for good: its pods are asked to stop, and nothing, not even a queue, starts them again."""
        body = {
            "metadata": {"annotations": {names.STOP_ANNOTATION: "true"}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("PATCH", "Job", *job, query=query, body=body, content_type=MERGE_PATCH)

    async def delete_pod(self, pod: Key, uid: str, grace: timedelta) -> None:
        """Have a pod deleted in ``grace``. Gone already is fine."""
        await self._delete("Pod", pod, uid, gracePeriodSeconds=int(grace.total_seconds()))

    async def delete(self, kind: str, key: Key, uid: str) -> None:
        """Delete an object, if it is still the one with ``uid``, and then what belongs to it."""
        await self._delete(kind, key, uid, propagationPolicy="Background")

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event; that it exists already is fine: its name says what it tells."""
        try:
            await self._client.send("POST", "Event", event["metadata"]["namespace"], body=event)
        except ApiError as error:
            if error.code != 409:
                raise

    async def warnings(self, namespace: str) -> AsyncIterator[dict[str, Any]]:
        """The Warning events of a namespace, but those of the scheduler: a pod's own conditions tell the same."""
        query = {"fieldSelector": "type=Warning,reason!=FailedScheduling", "limit": str(PAGE)}
        while True:
            page = await self._request("GET", "Event", namespace, query=query)
            for found in page["items"]:
                yield found
            if not (following := page["metadata"].get("continue")):
                return
            query["continue"] = following

    async def read_through_proxy(self, pod: Key, port: int, path: str, limit: int) -> bytes:
        """What a pod answers, asked by the API server; at most ``limit`` bytes."""
        return await self._client.get_through_proxy(pod, port, path, limit=limit, timeout=PROXY_TIMEOUT)

    async def _delete(self, kind: str, key: Key, uid: str, **options: Any) -> None:
        body = {"preconditions": {"uid": uid}, **options}
        try:
            await self._request("DELETE", kind, *key, body=body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def _request(
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
    ) -> dict[str, Any]:
        response = await self._client.send(
            method, kind, namespace, name, subresource, query=query, body=body, content_type=content_type
        )
        return response.object()
