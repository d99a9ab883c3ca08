"""The queue of what must be reconciled: urgent keys first, each key once, one worker a key, later after an error."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")

_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 60.0


class WorkQueue(Generic[Key]):
    """A keyed queue for one event loop.

    A key that is added while it is worked on is worked on once more afterwards. Of several times at which a key shall
    be looked at again, the earliest counts. ``is_urgent`` is asked when a key is added; a key that waits and becomes
    urgent is added again.
    """

    def __init__(self, is_urgent: Callable[[Key], bool] = lambda _: False) -> None:
        self._is_urgent = is_urgent
        self._ready: asyncio.PriorityQueue[tuple[bool, int, Key]] = asyncio.PriorityQueue()
        self._waiting: dict[Key, int] = {}
        """The place of each key; a place that a more urgent one has replaced is passed over."""
        self._urgent: set[Key] = set()
        self._in_work: set[Key] = set()
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._order = itertools.count()
        self._failures: dict[Key, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    @property
    def urgent(self) -> int:
        """How many urgent keys wait."""
        return len(self._urgent)

    def add(self, key: Key) -> None:
        """Have ``key`` worked on as soon as possible."""
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._waiting or (key not in self._urgent and self._is_urgent(key)):
            self._enter(key)

    def _enter(self, key: Key) -> None:
        urgent, place = self._is_urgent(key), next(self._order)
        if urgent:
            self._urgent.add(key)
        self._waiting[key] = place
        self._ready.put_nowait((not urgent, place, key))

    def add_later(self, key: Key, seconds: float) -> None:
        """Have ``key`` worked on after ``seconds``, unless it is sooner for another reason."""
        due = asyncio.get_running_loop().time() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._order), key))
            self._set_timer()

    async def get(self) -> Key:
        """The next key; `done` must follow."""
        while True:
            _, place, key = await self._ready.get()
            if self._waiting.get(key) == place:
                break
        del self._waiting[key]
        self._urgent.discard(key)
        self._in_work.add(key)
        self._due.pop(key, None)
        return key

    def done(self, key: Key) -> None:
        """The work on ``key`` went well."""
        self._failures.pop(key, None)
        self._end(key)

    def failed(self, key: Key, at_least: float = 0.0) -> int:
        """The work on ``key`` failed: it comes again, later each time; returns how often it has failed in a row."""
        count = self._failures.get(key, 0) + 1
        self._failures[key] = count
        delay = min(_FIRST_DELAY_SECONDS * 2 ** min(count - 1, 20), _LONGEST_DELAY_SECONDS)
        self._end(key)
        self.add_later(key, max(delay, at_least))
        return count

    def _end(self, key: Key) -> None:
        self._in_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._later[0][0], self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now + 0.001:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        if self._later:
            self._set_timer()
