"""Reads Warning Events about pending Jobs and their pods: some causes appear nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from finetune_core.runs import Observed, RunId, RunState
from finetune_kube.errors import ApiError
from finetune_kube.objects import ChildJob, ChildPod, Key
from finetune_operator.observation.pending import CREATE_EVENT, SETUP_EVENTS, WarningEvent

_INITIAL_DELAY_SECONDS = 3.0
"""Most runs start earlier and need no request."""
_INTERVAL_SECONDS = 5.0

ListWarnings = Callable[[str], AsyncIterator[dict[str, Any]]]
"""Lists the Warning Events of a namespace."""

log = logging.getLogger(__name__)


class WarningEvents:
    """The Warning Events of each pending run, by the uid of its Job.

    One list request covers all jobs of a namespace.
    """

    def __init__(self, list_warnings: ListWarnings, on_change: Callable[[Key], None]) -> None:
        self._list = list_warnings
        self._on_change = on_change
        self._tracked: dict[Key, dict[str, str]] = {}
        """For each FineTuneJob the uids of its pending Jobs and their pods, each with the uid of the Job."""
        self._events: dict[str, tuple[WarningEvent, ...]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def of(self, uid: str) -> tuple[WarningEvent, ...]:
        """The known events about a Job and its pods."""
        return self._events.get(uid, ())

    def track(self, key: Key, observed: Observed, children: Mapping[RunId, tuple[ChildJob, list[ChildPod]]]) -> None:
        """Poll for the pending runs of a FineTuneJob that have no other known cause, and for no others."""
        tracked = {}
        for run in observed.runs:
            child, pods = children[run.id]
            if run.state is RunState.PENDING and (run.pending_cause is None or self.of(child.uid)):
                tracked[child.uid] = child.uid
                waiting = (pod for pod in pods if not pod.finished and pod.started_at is None)
                tracked |= {pod.uid: child.uid for pod in waiting}
        for uid in set(self._tracked.get(key, {}).values()) - set(tracked.values()):
            self._events.pop(uid, None)
        if not tracked:
            self._tracked.pop(key, None)
            return
        self._tracked[key] = tracked
        if key[0] not in self._tasks:
            self._tasks[key[0]] = asyncio.create_task(self._poll(key[0]))

    def untrack(self, key: Key) -> None:
        """Stop polling for a FineTuneJob."""
        for uid in self._tracked.pop(key, {}).values():
            self._events.pop(uid, None)

    async def close(self) -> None:
        """Stop all polling."""
        for task in tuple(self._tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _poll(self, namespace: str) -> None:
        try:
            await asyncio.sleep(_INITIAL_DELAY_SECONDS)
            while any(key[0] == namespace for key in self._tracked):
                try:
                    self._update(namespace, await self._read(namespace))
                except ApiError as error:
                    log.warning("cannot list the Events of namespace %s: %s", namespace, error)
                await asyncio.sleep(_INTERVAL_SECONDS)
        finally:
            del self._tasks[namespace]

    async def _read(self, namespace: str) -> Mapping[str, list[WarningEvent]]:
        """The relevant events of a namespace, by the uid of the involved object."""
        events: defaultdict[str, list[WarningEvent]] = defaultdict(list)
        async for event in self._list(namespace):
            if event.get("reason") in (*SETUP_EVENTS, CREATE_EVENT):
                uid = event["involvedObject"].get("uid", "")
                events[uid].append(WarningEvent(event["reason"], event.get("message", "")))
        return events

    def _update(self, namespace: str, events: Mapping[str, list[WarningEvent]]) -> None:
        for key, tracked in self._tracked.items():
            if key[0] != namespace:
                continue
            by_job: defaultdict[str, tuple[WarningEvent, ...]] = defaultdict(tuple)
            for uid, job_uid in tracked.items():
                by_job[job_uid] += tuple(events.get(uid, ()))
            if any(self.of(job_uid) != new for job_uid, new in by_job.items()):
                self._events |= by_job
                self._on_change(key)
