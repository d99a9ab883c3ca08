"""Polls ``/progress`` of running pods. Responses are not trusted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp

from finetune_core.progress import MAX_PROGRESS_BYTES, parse_progress
from finetune_core.runs import PolledProgress, RunId
from finetune_kube.client import read_up_to
from finetune_kube.errors import ApiError
from finetune_kube.objects import ChildPod, Key

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MAX_CONCURRENT = 32
_MAX_GAP = timedelta(minutes=3)
"""A longer time between two requests means that the operator was suspended or could not send any."""

log = logging.getLogger(__name__)

Read = Callable[[ChildPod], Awaitable[bytes]]


def read_directly(session: aiohttp.ClientSession, port: int) -> Read:
    """Reads from the address of the pod."""

    async def read(pod: ChildPod) -> bytes:
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{port}/progress"
        # A pod must not redirect the operator, which can reach services that tenants cannot.
        async with session.get(url, allow_redirects=False, timeout=_TIMEOUT) as response:
            if response.status != 200:
                return b""
            return await read_up_to(response.content, MAX_PROGRESS_BYTES)

    return read


class ProgressPoller:
    """Keeps the latest progress of the running run of each job, and reports changes."""

    def __init__(self, read: Read, seconds: float, on_change: Callable[[Key], None]) -> None:
        self._read = read
        self._seconds = seconds
        self._on_change = on_change
        self._tasks: dict[Key, tuple[str, asyncio.Task[None]]] = {}
        self._latest: dict[Key, tuple[RunId, PolledProgress]] = {}
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    def latest(self, job: Key, run: RunId) -> PolledProgress:
        """The latest progress of a run, and since when it has not changed."""
        latest = self._latest.get(job)
        return latest[1] if latest and latest[0] == run else PolledProgress()

    def start(self, job: Key, pod: ChildPod) -> None:
        """Poll ``pod``, which has rank 0 of the job's run, instead of any other pod of the job."""
        task = self._tasks.get(job)
        if task and task[0] == pod.uid:
            return
        self.stop(job)
        self._tasks[job] = (pod.uid, asyncio.create_task(self._poll(job, pod)))

    def stop(self, job: Key) -> None:
        """Poll no pod of ``job``."""
        task = self._tasks.pop(job, None)
        if task:
            task[1].cancel()
        self._latest.pop(job, None)

    async def close(self) -> None:
        """Stop all polling."""
        tasks = [task for _, task in self._tasks.values()]
        for job in tuple(self._tasks):
            self.stop(job)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _poll(self, job: Key, pod: ChildPod) -> None:
        polled_at: datetime | None = None
        while True:
            now = datetime.now(UTC)
            if polled_at is None or now - polled_at > timedelta(seconds=self._seconds) + _MAX_GAP:
                # Progress from before the gap must not make the run stalled: it may have changed since.
                self._latest[job] = (pod.run, PolledProgress(None, now))
                self._on_change(job)
            answers = self.latest(job, pod.run).answers
            async with self._slots:
                try:
                    progress = parse_progress(await self._read(pod))
                    polled_at, answers = datetime.now(UTC), True
                except ApiError as error:
                    # The API server, which proxies the request, is unreachable: the pod was not polled.
                    log.debug("cannot poll pod %s/%s: %s", *pod.key, error)
                    progress = None
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("no progress from pod %s/%s: %s", *pod.key, error)
                    progress, polled_at, answers = None, datetime.now(UTC), False
            if progress and (progress.stage, progress.attempt) != (pod.run.stage, pod.run.attempt):
                progress = None
            latest = self.latest(job, pod.run)
            if progress and latest.progress != progress:
                self._latest[job] = (pod.run, PolledProgress(progress, datetime.now(UTC)))
                self._on_change(job)
            elif latest.answers != answers:
                self._latest[job] = (pod.run, replace(latest, answers=answers))
                self._on_change(job)
            await asyncio.sleep(self._seconds)
