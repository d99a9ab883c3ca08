"""Warning events about Jobs and pods that do not come along: some troubles are told nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from finetune_core.runs import Observed, RunId, RunState
from finetune_kube.errors import ApiError
from finetune_kube.objects import JobFacts, Key, PodFacts
from finetune_operator.observation.troubles import CREATE_EVENT, SETUP_EVENTS, Notice

_FIRST_AFTER_SECONDS = 3.0
"""Most runs compute before; then nobody need ask."""
_SECONDS = 5.0

Warnings = Callable[[str], AsyncIterator[dict[str, Any]]]
"""The Warning events of a namespace."""

log = logging.getLogger(__name__)


class Notices:
    """What was warned of about each run that is pending, by the uid of its Job.

    One request tells of all jobs of a namespace, however many wait.
    """

    def __init__(self, warnings: Warnings, on_news: Callable[[Key], None]) -> None:
        self._warnings = warnings
        self._on_news = on_news
        self._wanted: dict[Key, dict[str, str]] = {}
        """For each FineTuneJob the uids of pending Jobs, and of their pods, each with that of the Job."""
        self._known: dict[str, tuple[Notice, ...]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def of(self, uid: str) -> tuple[Notice, ...]:
        """What is known of a Job and its pods."""
        return self._known.get(uid, ())

    def follow(self, key: Key, observed: Observed, children: Mapping[RunId, tuple[JobFacts, list[PodFacts]]]) -> None:
        """Ask, from now on, about the pending runs of a FineTuneJob that nothing else explains, and no others."""
        wanted = {}
        for run in observed.runs:
            facts, pods = children[run.id]
            if run.state is RunState.PENDING and (run.trouble is None or self.of(facts.uid)):
                wanted[facts.uid] = facts.uid
                waiting = (pod for pod in pods if not pod.finished and pod.started_at is None)
                wanted |= {pod.uid: facts.uid for pod in waiting}
        for uid in set(self._wanted.get(key, {}).values()) - set(wanted.values()):
            self._known.pop(uid, None)
        if not wanted:
            self._wanted.pop(key, None)
            return
        self._wanted[key] = wanted
        if key[0] not in self._tasks:
            self._tasks[key[0]] = asyncio.create_task(self._ask(key[0]))

    def leave(self, key: Key) -> None:
        """Ask about nothing of a FineTuneJob any more."""
        for uid in self._wanted.pop(key, {}).values():
            self._known.pop(uid, None)

    async def close(self) -> None:
        """Ask nothing any more."""
        for task in tuple(self._tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _ask(self, namespace: str) -> None:
        try:
            await asyncio.sleep(_FIRST_AFTER_SECONDS)
            while any(key[0] == namespace for key in self._wanted):
                try:
                    self._note(namespace, await self._read(namespace))
                except ApiError as error:
                    log.warning("the Events of namespace %s cannot be read: %s", namespace, error)
                await asyncio.sleep(_SECONDS)
        finally:
            del self._tasks[namespace]

    async def _read(self, namespace: str) -> Mapping[str, list[Notice]]:
        """What is warned of in a namespace, by the uid of the object."""
        found: defaultdict[str, list[Notice]] = defaultdict(list)
        async for event in self._warnings(namespace):
            if event.get("reason") in (*SETUP_EVENTS, CREATE_EVENT):
                uid = event["involvedObject"].get("uid", "")
                found[uid].append(Notice(event["reason"], event.get("message", "")))
        return found

    def _note(self, namespace: str, found: Mapping[str, list[Notice]]) -> None:
        for key, wanted in self._wanted.items():
            if key[0] != namespace:
                continue
            told: defaultdict[str, tuple[Notice, ...]] = defaultdict(tuple)
            for uid, job in wanted.items():
                told[job] += tuple(found.get(uid, ()))
            if any(self.of(job) != said for job, said in told.items()):
                self._known |= told
                self._on_news(key)
