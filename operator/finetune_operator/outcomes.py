"""Counts in the metrics how attempts of stages ended, and how long they were pending.

Counted are the differences between stored statuses, so an attempt counts once, whether the write of its end had to be
repeated, its response was lost, or its failure was recorded before its pods ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJobStatus, StageState, StageStatus
from finetune_api.stage import STAGES, Stage
from finetune_core.runs import RunId
from finetune_kube.objects import ChildJob, Key
from finetune_operator.metrics import SUCCEEDED, Metrics


@dataclass(frozen=True, slots=True)
class _Counted:
    """What of a job was counted, so small that every unfinished job has one."""

    uid: str
    revision: int
    spec_digest: str
    ended: tuple[int, ...]
    """The last attempt of each stage that has ended."""
    active: RunId | None
    """The attempt that has not ended."""
    running: RunId | None
    """The last attempt whose pods all ran."""


class Outcomes:
    """Counts the attempts of all jobs. What ended before this process first saw the job does not count."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: dict[Key, _Counted] = {}

    def forget(self, key: Key) -> None:
        """Free the memory of a deleted job."""
        self._counted.pop(key, None)

    def stored(
        self, key: Key, uid: str, status: FineTuneJobStatus, runs: Mapping[RunId, ChildJob], now: datetime
    ) -> None:
        """Count what is new in ``status``, which the API server has stored."""
        counted = self._counted.get(key)
        running = _running(status)
        if counted and counted.uid == uid:
            self._count_ends(counted, status)
            if running and running != counted.running and (run := runs.get(running)):
                waited = (now - run.created_at).total_seconds()
                self._metrics.waiting_seconds.labels(running.stage).observe(waited)
            running = running or counted.running
        if status.completion_time:
            self._counted.pop(key, None)
        else:
            ended = tuple(_last_ended(status, name) for name in STAGES)
            self._counted[key] = _Counted(uid, status.revision, status.spec_digest, ended, _active(status), running)

    def _count_ends(self, counted: _Counted, status: FineTuneJobStatus) -> None:
        ended = dict(zip(STAGES, counted.ended, strict=True))
        if counted.revision != status.revision:
            if counted.active:
                # The status of the new revision does not tell how it ended.
                same = counted.spec_digest == status.spec_digest
                self._count(counted.active.stage, Reason.REVISION_TAKEN if same else Reason.STOPPED)
            ended = {name: status.attempts_before(name) for name in STAGES}
        for name in STAGES:
            for attempt in range(ended[name] + 1, _last_ended(status, name) + 1):
                self._count(name, _reason(status, status.stage(name), attempt))

    def _count(self, stage: Stage, reason: str) -> None:
        self._metrics.stage_outcomes.labels(stage, reason).inc()


def _last_ended(status: FineTuneJobStatus, name: Stage) -> int:
    stage = status.stage(name)
    if stage.completion_time is None:
        return max(stage.attempt - 1, status.attempts_before(name))
    # A stage whose deadline has passed before its first attempt fails without one.
    return max(stage.attempt, 1) if stage.state is StageState.FAILED else stage.attempt


def _reason(status: FineTuneJobStatus, stage: StageStatus, attempt: int) -> str:
    """Why an attempt ended. One whose end is stored together with that of a later one has the reason of the later."""
    failure = status.failure
    if failure and failure.stage is stage.name and attempt <= failure.attempt:
        return failure.reason
    # Without a failure, an attempt that did not succeed was stopped because of spec.suspend.
    return SUCCEEDED if stage.state is StageState.SUCCEEDED and attempt == stage.attempt else Reason.STOPPED


def _active(status: FineTuneJobStatus) -> RunId | None:
    for stage in status.stages:
        if stage.attempt and stage.completion_time is None:
            return RunId(status.revision, stage.name, stage.attempt)
    return None


def _running(status: FineTuneJobStatus) -> RunId | None:
    active = _active(status)
    return active if active and status.stage(active.stage).state is StageState.RUNNING else None
