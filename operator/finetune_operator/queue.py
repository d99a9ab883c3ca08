"""The work queue: urgent keys first, each key once, one worker per key, exponential back-off after failures."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 60.0


class WorkQueue(Generic[Key]):
    """A keyed queue for one event loop.

    A key that is added while it is processed is processed again afterwards. Of several delays for a key, the earliest
    counts. ``is_urgent`` is called when a key is added; a queued key that has become urgent moves forward.
    """

    def __init__(self, is_urgent: Callable[[Key], bool] = lambda _: False) -> None:
        self._is_urgent = is_urgent
        self._ready: asyncio.PriorityQueue[tuple[bool, int, Key]] = asyncio.PriorityQueue()
        self._queued: dict[Key, int] = {}
        """Sequence number of each queued key; entries of ``_ready`` with another number are outdated."""
        self._urgent: set[Key] = set()
        self._processing: set[Key] = set()
        self._dirty: set[Key] = set()
        """Keys that were added while they were processed."""
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._sequence = itertools.count()
        self._failures: dict[Key, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._queued) + len(self._dirty)

    @property
    def urgent(self) -> int:
        """The number of queued urgent keys."""
        return len(self._urgent)

    def add(self, key: Key) -> None:
        """Enqueue ``key``."""
        if key in self._processing:
            self._dirty.add(key)
        elif key not in self._queued or (key not in self._urgent and self._is_urgent(key)):
            self._enqueue(key)

    def _enqueue(self, key: Key) -> None:
        urgent, number = self._is_urgent(key), next(self._sequence)
        if urgent:
            self._urgent.add(key)
        self._queued[key] = number
        self._ready.put_nowait((not urgent, number, key))

    def add_after(self, key: Key, seconds: float) -> None:
        """Enqueue ``key`` after ``seconds``, unless it is due earlier."""
        due = asyncio.get_running_loop().time() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._delayed, (due, next(self._sequence), key))
            self._set_timer()

    async def get(self) -> Key:
        """The next key; call `done` or `failed` after processing it."""
        while True:
            _, number, key = await self._ready.get()
            if self._queued.get(key) == number:
                break
        del self._queued[key]
        self._urgent.discard(key)
        self._processing.add(key)
        self._due.pop(key, None)
        return key

    def done(self, key: Key) -> None:
        """End the processing of ``key`` and reset its back-off."""
        self._failures.pop(key, None)
        self._end(key)

    def failed(self, key: Key, at_least: float = 0.0) -> int:
        """End the processing of ``key`` and requeue it with back-off; returns the number of consecutive failures."""
        count = self._failures.get(key, 0) + 1
        self._failures[key] = count
        delay = min(_FIRST_DELAY_SECONDS * 2 ** min(count - 1, 20), _MAX_DELAY_SECONDS)
        self._end(key)
        self.add_after(key, max(delay, at_least))
        return count

    def _end(self, key: Key) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._delayed[0][0], self._add_due)

    def _add_due(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now + 0.001:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        if self._delayed:
            self._set_timer()
