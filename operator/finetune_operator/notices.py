"""Warning events about Jobs and pods that do not come along: some troubles are told nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from finetune_operator.observation.facts import JobFacts, PodFacts
from finetune_operator.observation.troubles import CREATE_EVENT, SETUP_EVENTS, Notice
from finetune_operator.runs import Observed, RunId, RunState

_LOOK_AFTER = timedelta(seconds=3)
"""Most runs compute before; then nobody need ask."""


class Warnings(Protocol):
    async def warnings(self, namespace: str, uid: str) -> list[dict[str, Any]]: ...


class Notices:
    """What was warned of about each run that is pending, by the uid of its Job."""

    def __init__(self, cluster: Warnings) -> None:
        self._cluster = cluster
        self._known: dict[str, tuple[Notice, ...]] = {}

    def of(self, uid: str) -> tuple[Notice, ...]:
        """What is known of a Job and its pods."""
        return self._known.get(uid, ())

    async def look(
        self, observed: Observed, children: Mapping[RunId, tuple[JobFacts, list[PodFacts]]], now: datetime
    ) -> None:
        """Ask about pending runs that nothing else explains; forget those that are past it."""
        for run in observed.runs:
            facts, pods = children[run.id]
            if run.state is not RunState.PENDING:
                self._known.pop(facts.uid, None)
            elif (run.trouble is None or self.of(facts.uid)) and now - facts.created_at >= _LOOK_AFTER:
                self._known[facts.uid] = await self._ask(facts, pods)

    async def _ask(self, facts: JobFacts, pods: list[PodFacts]) -> tuple[Notice, ...]:
        waiting = [pod.uid for pod in pods if not pod.finished and pod.started_at is None]
        asked = [facts.uid] if len(pods) < facts.workers else waiting[:1]
        warnings = [event for uid in asked for event in await self._cluster.warnings(facts.key[0], uid)]
        return tuple(
            Notice(event["reason"], event.get("message", ""))
            for event in warnings
            if event.get("reason") in (*SETUP_EVENTS, CREATE_EVENT)
        )
