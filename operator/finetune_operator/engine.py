"""Runs the controller: the queue with its workers, and a periodic resync.

A watch may miss a deletion while it reconnects, and an operator that restarts has missed every event. So no logic
depends on an event being received.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from finetune_api.stage import StageConfig
from finetune_core.progress import MAX_PROGRESS_BYTES
from finetune_kube.errors import ApiError
from finetune_kube.objects import ChildPod, Key, key_of
from finetune_operator.cache import Cache
from finetune_operator.cluster import WATCHED, Cluster
from finetune_operator.controller import Controller, Pollers, Sinks
from finetune_operator.event_recorder import EventRecorder
from finetune_operator.logs import log_context
from finetune_operator.metrics import Metrics
from finetune_operator.observation.pending import quoted
from finetune_operator.progress_poller import ProgressPoller, read_directly
from finetune_operator.queue import WorkQueue
from finetune_operator.settings import Settings
from finetune_operator.warning_events import WarningEvents

_PROGRESS_PORT: int = StageConfig.model_fields["port"].default
_STUCK_SECONDS = 600.0
"""Longer than any reconcile can take, as every request has a timeout."""
_REFUSED_SECONDS = 300.0
"""Time until a request is sent again that the API server refuses for its content, if the job does not change before."""
_REPORT_AFTER_FAILURES = 3
"""Consecutive failures before the error is written to the status of the job."""

log = logging.getLogger(__name__)


class Engine:
    """The operator without its watches."""

    def __init__(self, settings: Settings, cluster: Cluster, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._cache = Cache()
        self._queue: WorkQueue[Key] = WorkQueue(self._cache.needs_child)
        direct = settings.progress_via == "PodAddress"
        read = read_directly(session, _PROGRESS_PORT) if direct else self._read_through_proxy
        self._progress = ProgressPoller(read, settings.progress_seconds, self._queue.add)
        self._warnings = WarningEvents(cluster.warning_events, self._queue.add)
        self._processing: dict[Key, float] = {}
        self._events = EventRecorder(cluster.create_event, lambda: not self._queue and not self._processing)
        self._controller = Controller(
            cluster,
            self._cache,
            Pollers(self._progress, self._warnings),
            Sinks(self._events, metrics),
            settings.trainer,
            urgent_waiting=lambda: self._queue.urgent > 0,
        )
        self._synced_at: float | None = None
        self.synced = asyncio.Event()
        """Set after the first complete list of all kinds."""
        metrics.register_gauges(self._cache.phases, lambda: len(self._queue), self._cache.scores)

    def handle(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        """Update the cache with an object from a watch, and enqueue its FineTuneJob."""
        key = self._cache.update(kind, obj, deleted)
        if key and self._synced_at is not None:
            self._queue.add(key)

    def unhealthy(self) -> str | None:
        """A problem that only a restart solves."""
        now = asyncio.get_running_loop().time()
        stuck = [key for key, since in self._processing.items() if now - since > _STUCK_SECONDS]
        return f"the reconcile of {'/'.join(stuck[0])} hangs" if stuck else None

    def unready(self) -> str | None:
        """Why jobs are not reconciled."""
        if self._synced_at is None:
            return "the first sync has not finished"
        age = asyncio.get_running_loop().time() - self._synced_at
        if age > 3 * self._settings.resync_seconds + 60:
            return f"the last successful resync was {age:.0f} s ago"
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reconcile all jobs while the context is open."""
        tasks = [asyncio.create_task(self._resync_loop())]
        tasks += [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]
        async with self._events.running():
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                await self._progress.close()
                await self._warnings.close()

    async def _resync_loop(self) -> None:
        delay = 0.2
        while True:
            try:
                await self._resync()
                delay = self._settings.resync_seconds
            except ApiError as error:
                log.warning("resync failed: %s", error)
                delay = min(delay * 2, 30.0)
            await asyncio.sleep(delay)

    async def _resync(self) -> None:
        """List all objects. Children come after their jobs: a listed job without its child would look lost."""
        affected: set[Key] = set()
        for namespace in self._settings.namespaces or (None,):
            for kind in WATCHED:
                affected |= await self._list(kind, namespace)
        first, self._synced_at = self._synced_at is None, asyncio.get_running_loop().time()
        self.synced.set()
        self._metrics.last_resync.set_to_current_time()
        for job in self._cache.jobs:
            if first or not job.finished:
                affected.add(job.key)
        for key in affected:
            self._queue.add(key)

    async def _list(self, kind: str, namespace: str | None) -> set[Key]:
        """Update the cache with all objects of a kind; returns the FineTuneJobs that are affected."""
        affected, present, version = set(), set(), 0
        async for page in self._cluster.pages(kind, namespace):
            version = page.version
            for item in page.items:
                present.add(key_of(item))
                if key := self._cache.update(kind, item):
                    affected.add(key)
        return affected | self._cache.remove_missing(kind, present, version, namespace)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._processing[key] = asyncio.get_running_loop().time()
            try:
                with log_context(namespace=key[0], job=key[1]), self._metrics.reconcile_seconds.time():
                    await self._reconcile(key)
            finally:
                del self._processing[key]

    async def _reconcile(self, key: Key) -> None:
        try:
            requeue_after = await self._controller.reconcile(key)
        except ApiError as error:
            if error.code == 409:
                # Another client wrote the object in the meantime; this is not an error.
                self._queue.done(key)
                self._queue.add(key)
                return
            self._metrics.reconcile_errors.inc()
            if error.permanent:
                log.error("reconcile failed: %s", error)
                self._queue.done(key)
                self._queue.add_after(key, _REFUSED_SECONDS)
                message = (
                    f"The API server refuses what the operator writes for this job: {quoted(error.message)} If the CRD "
                    "is older than the operator, apply the one of its chart."
                )
                await self._report_error(key, message)
                return
            count = self._queue.failed(key, error.retry_after)
            log.log(logging.WARNING if count > 1 else logging.INFO, "reconcile failed, retrying: %s", error)
        except Exception as error:
            self._metrics.reconcile_errors.inc()
            log.exception("reconcile failed, retrying")
            if self._queue.failed(key) >= _REPORT_AFTER_FAILURES:
                message = f"The operator fails to reconcile this job and retries: {error!r}"
                await self._report_error(key, message[:1000])
        else:
            self._queue.done(key)
            if requeue_after is not None:
                self._queue.add_after(key, requeue_after.total_seconds())

    async def _report_error(self, key: Key, message: str) -> None:
        try:
            await self._controller.report_error(key, message)
        except Exception:
            log.exception("cannot write the reconcile error to the status")

    async def _read_through_proxy(self, pod: ChildPod) -> bytes:
        try:
            return await self._cluster.read_through_proxy(pod.key, _PROGRESS_PORT, "/progress", MAX_PROGRESS_BYTES)
        except aiohttp.ClientConnectorError as error:
            raise ApiError(0, "", str(error)) from error
