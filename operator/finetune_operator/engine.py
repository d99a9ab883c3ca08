"""Keeps every job looked after: the queue and its workers, and a full look at all that exists now and then.

Watches may miss a deletion while they are renewed, and an operator that was away has missed everything; so nothing
depends on an event having been seen.
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
from finetune_kube.objects import Key, PodFacts, key_of
from finetune_operator.cache import Cache
from finetune_operator.cluster import WATCHED, Cluster
from finetune_operator.controller import Controller, Readers
from finetune_operator.logs import about
from finetune_operator.metrics import Metrics
from finetune_operator.notices import Notices
from finetune_operator.progress import ProgressReader, by_address
from finetune_operator.settings import Settings
from finetune_operator.workqueue import WorkQueue

_PROGRESS_PORT: int = StageConfig.model_fields["port"].default
_STUCK_SECONDS = 600.0
"""Longer than any look can take, as every request has a time limit."""
_CONFESS_AFTER = 3
"""Failures in a row, before a person is told."""

log = logging.getLogger(__name__)


class Engine:
    """The operator without its watches."""

    def __init__(self, settings: Settings, cluster: Cluster, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._cache = Cache()
        self._queue: WorkQueue[Key] = WorkQueue(self._cache.awaits_child)
        read = by_address(session, _PROGRESS_PORT) if settings.progress_via == "PodAddress" else self._by_proxy
        self._progress = ProgressReader(read, settings.progress_seconds, self._queue.add)
        self._notices = Notices(cluster.warnings, self._queue.add)
        readers = Readers(self._progress, self._notices)
        self._controller = Controller(
            cluster, self._cache, readers, metrics, settings.trainer, others_wait=lambda: self._queue.urgent > 0
        )
        self._in_work: dict[Key, float] = {}
        self._synced_at: float | None = None
        self.synced = asyncio.Event()
        """Set when all that exists was seen for the first time."""
        metrics.gauge(self._cache.phases, lambda: len(self._queue))

    def see(self, kind: str, found: Mapping[str, Any], deleted: bool) -> None:
        """Take note of what a watch shows."""
        key = self._cache.see(kind, found, deleted)
        if key and self._synced_at is not None:
            self._queue.add(key)

    def unhealthy(self) -> str | None:
        """What is wrong that only a restart would mend."""
        now = asyncio.get_running_loop().time()
        stuck = [key for key, since in self._in_work.items() if now - since > _STUCK_SECONDS]
        return f"stuck on {'/'.join(stuck[0])}" if stuck else None

    def unready(self) -> str | None:
        """Why jobs are not looked after."""
        if self._synced_at is None:
            return "has not seen what exists yet"
        away = asyncio.get_running_loop().time() - self._synced_at
        if away > 3 * self._settings.resync_seconds + 60:
            return f"has not seen all that exists for {away:.0f} s"
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after all jobs until the end of the block."""
        tasks = [asyncio.create_task(self._resync_always())]
        tasks += [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self._progress.close()
            await self._notices.close()

    async def _resync_always(self) -> None:
        delay = 0.2
        while True:
            try:
                await self._resync()
                delay = self._settings.resync_seconds
            except ApiError as error:
                log.warning("cannot see what exists: %s", error)
                delay = min(delay * 2, 30.0)
            await asyncio.sleep(delay)

    async def _resync(self) -> None:
        """Look at everything. Children come after their jobs: a job without a child that it had would look robbed."""
        concerned: set[Key] = set()
        for namespace in self._settings.namespaces or (None,):
            for kind in WATCHED:
                concerned |= await self._look_at_all(kind, namespace)
        first, self._synced_at = self._synced_at is None, asyncio.get_running_loop().time()
        self.synced.set()
        self._metrics.last_resync.set_to_current_time()
        for job in self._cache.jobs:
            if first or not job.ended:
                concerned.add(job.key)
        for key in concerned:
            self._queue.add(key)

    async def _look_at_all(self, kind: str, namespace: str | None) -> set[Key]:
        concerned, present, version = set(), set(), 0
        async for page in self._cluster.pages(kind, namespace):
            version = page.version
            for item in page.items:
                present.add(key_of(item))
                if key := self._cache.see(kind, item):
                    concerned.add(key)
        return concerned | self._cache.forget_others(kind, present, version, namespace)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._in_work[key] = asyncio.get_running_loop().time()
            try:
                with about(namespace=key[0], job=key[1]), self._metrics.reconcile_seconds.time():
                    await self._look(key)
            finally:
                del self._in_work[key]

    async def _look(self, key: Key) -> None:
        try:
            again = await self._controller.look(key)
        except ApiError as error:
            if error.code == 409:
                # Somebody else wrote meanwhile; that is nobody's fault.
                self._queue.done(key)
                self._queue.add(key)
                return
            self._metrics.reconcile_errors.inc()
            count = self._queue.failed(key, error.retry_after)
            log.log(logging.WARNING if count > 1 else logging.INFO, "will be tried again: %s", error)
        except Exception as error:
            self._metrics.reconcile_errors.inc()
            log.exception("looking after this job failed; it will be tried again")
            if self._queue.failed(key) >= _CONFESS_AFTER:
                await self._confess(key, f"The operator fails at this job, and tries again: {error!r}"[:1000])
        else:
            self._queue.done(key)
            if again is not None:
                self._queue.add_later(key, again.total_seconds())

    async def _confess(self, key: Key, sentence: str) -> None:
        try:
            await self._controller.confess(key, sentence)
        except Exception:
            log.exception("nor can that be said in its status")

    async def _by_proxy(self, pod: PodFacts) -> bytes:
        try:
            return await self._cluster.read_through_proxy(pod.key, _PROGRESS_PORT, "/progress", MAX_PROGRESS_BYTES)
        except aiohttp.ClientConnectorError as error:
            raise ApiError(0, "", str(error)) from error
