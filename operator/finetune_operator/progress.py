"""Reads ``/progress`` of the pods that compute, every few seconds, without trusting what they say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp

from finetune_core.progress import MAX_PROGRESS_BYTES, parse_progress
from finetune_core.runs import Heard, RunId
from finetune_kube.client import read_up_to
from finetune_kube.errors import ApiError
from finetune_kube.objects import Key, PodFacts

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_AT_ONCE = 32
_BREAK = timedelta(minutes=3)
"""So late, no next question comes unless the operator stood still or could not ask."""

log = logging.getLogger(__name__)

Read = Callable[[PodFacts], Awaitable[bytes]]


def by_address(session: aiohttp.ClientSession, port: int) -> Read:
    """Ask pods at their own address."""

    async def read(pod: PodFacts) -> bytes:
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{port}/progress"
        # A pod must not send the operator elsewhere: it reaches what tenants cannot.
        async with session.get(url, allow_redirects=False, timeout=_TIMEOUT) as response:
            if response.status != 200:
                return b""
            return await read_up_to(response.content, MAX_PROGRESS_BYTES)

    return read


class ProgressReader:
    """Keeps the last progress of each job's running run, and says when there is news."""

    def __init__(self, read: Read, seconds: float, on_news: Callable[[Key], None]) -> None:
        self._read = read
        self._seconds = seconds
        self._on_news = on_news
        self._tasks: dict[Key, tuple[str, asyncio.Task[None]]] = {}
        self._known: dict[Key, tuple[RunId, Heard]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def heard(self, job: Key, run: RunId) -> Heard:
        """What a run has said, to whoever listens without a break."""
        known = self._known.get(job)
        return known[1] if known and known[0] == run else Heard()

    def follow(self, job: Key, pod: PodFacts) -> None:
        """Ask ``pod``, which has rank 0 of the job's run, from now on."""
        task = self._tasks.get(job)
        if task and task[0] == pod.uid:
            return
        self.leave(job)
        self._tasks[job] = (pod.uid, asyncio.create_task(self._ask(job, pod)))

    def leave(self, job: Key) -> None:
        """Ask nobody for ``job`` any more."""
        task = self._tasks.pop(job, None)
        if task:
            task[1].cancel()
        self._known.pop(job, None)

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = [task for _, task in self._tasks.values()]
        for job in tuple(self._tasks):
            self.leave(job)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _ask(self, job: Key, pod: PodFacts) -> None:
        asked_at: datetime | None = None
        while True:
            now = datetime.now(UTC)
            if asked_at is None or now - asked_at > timedelta(seconds=self._seconds) + _BREAK:
                # What was heard before is no reason to call the run silent: it may have said much since.
                self._known[job] = (pod.run, Heard(None, now))
                self._on_news(job)
            async with self._slots:
                try:
                    said = parse_progress(await self._read(pod))
                    asked_at = datetime.now(UTC)
                except ApiError as error:
                    # The API server, through which it goes, is away: nobody was asked.
                    log.debug("pod %s/%s cannot be asked: %s", *pod.key, error)
                    said = None
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("pod %s/%s tells no progress: %s", *pod.key, error)
                    said, asked_at = None, datetime.now(UTC)
            if said and (said.stage, said.attempt) != (pod.run.stage, pod.run.attempt):
                said = None
            heard = self.heard(job, pod.run)
            if said and heard.progress != said:
                self._known[job] = (pod.run, replace(heard, progress=said))
                self._on_news(job)
            await asyncio.sleep(self._seconds)
