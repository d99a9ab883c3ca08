"""The requests of the operator to the Kubernetes API, except Kopf's watches."""

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

PAGE_SIZE = 100
"""Limit of a list request. Whole pods are large, and the process does not return the memory of a larger page."""
_TIMEOUT = aiohttp.ClientTimeout(total=30)
PROXY_TIMEOUT = aiohttp.ClientTimeout(total=5)

WATCHED = (KIND, "Job", "Pod")
"""The kinds in the cache."""


class NoCluster(Exception):
    """No cluster is configured; the message says why."""


@dataclass(frozen=True)
class Page:
    """One page of a list, with the resource version of the list."""

    items: list[dict[str, Any]]
    version: int


@asynccontextmanager
async def connect(metrics: Metrics) -> AsyncIterator[Cluster]:
    """Connect to the cluster that this pod runs in, or to that of the kubeconfig.

    Raises:
        NoCluster: There is neither a service account nor a usable kubeconfig.
    """
    try:
        configuration = from_service_account()
    except ConfigurationError:
        try:
            configuration, _ = await from_kubeconfig()
        except ConfigurationError as error:
            raise NoCluster(f"no service account of a pod was found, and no usable kubeconfig: {error}") from error
    async with Connection(configuration, names.FIELD_MANAGER) as connection:
        yield Cluster(connection, metrics)


class Cluster:
    """One connection to the API server; every method may raise ApiError."""

    def __init__(self, connection: Connection, metrics: Metrics) -> None:
        self._client = Client(connection, _TIMEOUT, metrics.count_api_request)

    async def pages(self, kind: str, namespace: str | None) -> AsyncIterator[Page]:
        """List a watched kind page by page; only Jobs and pods with the label of a FineTuneJob."""
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
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
        """List the pods of one child Job."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job[1]}"}
        listed = await self._request("GET", "Pod", job[0], query=query)
        return list(listed["items"])

    async def get(self, kind: str, key: Key) -> dict[str, Any]:
        return await self._request("GET", kind, key[0], key[1])

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply without force: a field that another field manager set to another value is a 409."""
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
        """Create an object, at half of the cost of `apply`; an existing one is a 409."""
        namespace = manifest["metadata"]["namespace"]
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("POST", manifest["kind"], namespace, query=query, body=manifest)

    async def write_status(self, key: Key, uid: str, version: int, status: Mapping[str, Any]) -> dict[str, Any]:
        """Write the status of a FineTuneJob; another resource version than ``version`` is a 409."""
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

    async def stop_job(self, job: Key) -> dict[str, Any]:
        """Stop a child Job through its active deadline: its pods are deleted, and no queue can resume it."""
        body = {
            "metadata": {"annotations": {names.STOP_ANNOTATION: "true"}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("PATCH", "Job", *job, query=query, body=body, content_type=MERGE_PATCH)

    async def delete_pod(self, pod: Key, uid: str, grace: timedelta) -> None:
        """Delete a pod with a grace period; ignore a pod that no longer exists."""
        await self._delete("Pod", pod, uid, gracePeriodSeconds=int(grace.total_seconds()))

    async def delete(self, kind: str, key: Key, uid: str) -> None:
        """Delete an object if it still has ``uid``; its dependents are deleted in the background."""
        await self._delete(kind, key, uid, propagationPolicy="Background")

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event; ignore an existing one, as the name identifies the content."""
        try:
            await self._client.send("POST", "Event", event["metadata"]["namespace"], body=event)
        except ApiError as error:
            if error.code != 409:
                raise

    async def warning_events(self, namespace: str) -> AsyncIterator[dict[str, Any]]:
        """List the Warning Events of a namespace, without those of the scheduler, which repeat conditions of pods."""
        query = {"fieldSelector": "type=Warning,reason!=FailedScheduling", "limit": str(PAGE_SIZE)}
        while True:
            page = await self._request("GET", "Event", namespace, query=query)
            for event in page["items"]:
                yield event
            if not (following := page["metadata"].get("continue")):
                return
            query["continue"] = following

    async def read_through_proxy(self, pod: Key, port: int, path: str, limit: int) -> bytes:
        """At most ``limit`` bytes of a pod's response, read through the proxy of the API server."""
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
