"""Creates Events in the background, after the requests that jobs wait for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from finetune_kube.errors import ApiError

_MAX_DELAY_SECONDS = 10.0
"""An operator that is never idle creates Events after this time."""
_POLL_SECONDS = 0.05
_IDLE_POLLS = 10
"""In a burst of jobs, the operator has nothing to do for moments only."""
_CONCURRENT = 8
_MAX_QUEUED = 20_000
"""The oldest Events are dropped beyond this number: the API server has been unreachable for long."""
_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 30.0
_FLUSH_SECONDS = 5.0
"""Time to create the queued Events at exit, shorter than the grace period of the operator's pod."""

CreateEvent = Callable[[Mapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)


class EventRecorder:
    """A queue of Events, which are created when the operator is idle.

    A status that was written is more urgent than the Events that describe its change. What a crash leaves unreported,
    the first reconcile after a restart records again; see `events.unreported`.
    """

    def __init__(self, create: CreateEvent, is_idle: Callable[[], bool]) -> None:
        self._create = create
        self._is_idle = is_idle
        self._queued: deque[Mapping[str, Any]] = deque(maxlen=_MAX_QUEUED)
        self._recorded = asyncio.Event()
        self._was_idle = False

    def record(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Enqueue Event objects."""
        self._queued.extend(events)
        if self._queued:
            self._recorded.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Create Events while the context is open, and the remaining ones at its end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    while self._queued and not await self._create_some():
                        pass

    async def _run(self) -> None:
        retry = _FIRST_RETRY_SECONDS
        while True:
            await self._recorded.wait()
            due = asyncio.get_running_loop().time() + _MAX_DELAY_SECONDS
            while self._queued:
                await self._until_idle(due)
                if await self._create_some():
                    await asyncio.sleep(retry)
                    retry = min(2 * retry, _MAX_RETRY_SECONDS)
                else:
                    retry = _FIRST_RETRY_SECONDS
            self._recorded.clear()
            self._was_idle = False

    async def _until_idle(self, due: float) -> None:
        """Wait until the operator has been idle for a while, or until ``due``, a time of the event loop."""
        idle = 0 if not self._was_idle else _IDLE_POLLS - 1
        while asyncio.get_running_loop().time() < due:
            idle = idle + 1 if self._is_idle() else 0
            if idle >= _IDLE_POLLS:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._was_idle = idle >= _IDLE_POLLS

    async def _create_some(self) -> bool:
        """Create the oldest Events; returns whether one has to be retried, as the API server could not be reached."""
        batch = [self._queued.popleft() for _ in range(min(_CONCURRENT, len(self._queued)))]
        try:
            results = await asyncio.gather(*map(self._create, batch), return_exceptions=True)
        except asyncio.CancelledError:
            # Creating an Event again is harmless: its name identifies it.
            self._queued.extendleft(reversed(batch))
            raise
        failed = []
        for event, result in zip(batch, results, strict=True):
            if isinstance(result, ApiError):
                log.warning("cannot create an Event: %s", result)
                if not result.rejected and result.code != 404:
                    failed.append(event)
            elif isinstance(result, BaseException):
                # An exception here would end the recorder, and with it all later Events.
                log.error("cannot create an Event", exc_info=result)
        self._queued.extendleft(reversed(failed))
        return bool(failed)
