"""The Events of a job: what a person would want to see happen, each once.

The name of an Event says what it tells, so telling it again, after a crash or by a second operator, creates nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus, Phase, StageState
from finetune_core import names
from finetune_core.sentences import clipped
from finetune_core.times import to_text

_LONGEST_MESSAGE = 1024
"""Of an Event, by the API server's rule."""


@dataclass(frozen=True)
class Announcement:
    """One thing that happened."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    occasion: str
    """What tells it from another Event of the same reason: revision, stage, attempt."""


def announcements(before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[Announcement]:
    """What happened between two statuses."""
    revision = f"r{after.revision}"
    if before.revision != after.revision and before.revision:
        told = f"The spec has changed: revision {after.revision} begins."
        if before.spec_digest == after.spec_digest:
            told = f"Revision {before.revision} is that of an earlier job: this one goes on as {after.revision}."
        yield Announcement("Normal", "NewRevision", told, revision)
    known = {stage.name: stage for stage in before.stages} if before.revision == after.revision else {}
    failure = list(_failure(before, after, revision))
    for stage in after.stages:
        if failure and after.failure and after.failure.stage is stage.name and after.failure.attempt < stage.attempt:
            # The next attempt started at once.
            yield failure.pop()
        old = known.get(stage.name)
        run = f"{revision}/{stage.name}/{stage.attempt}"
        if stage.attempt and (old is None or old.attempt < stage.attempt):
            again = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
            yield Announcement("Normal", f"{stage.name.capitalize()}Started", f"Stage {stage.name} starts{again}.", run)
        if stage.waiting_for and (old is None or old.waiting_for != stage.waiting_for):
            yield Announcement("Warning", stage.waiting_for, stage.message, f"{run}/{stage.waiting_for}")
        if stage.state is StageState.SUCCEEDED and (old is None or old.state is not StageState.SUCCEEDED):
            yield Announcement("Normal", f"{stage.name.capitalize()}Succeeded", f"{stage.message}.", run)
    yield from failure
    if after.phase is not before.phase:
        yield from _phase(after, revision)


def _failure(before: FineTuneJobStatus, after: FineTuneJobStatus, revision: str) -> Iterator[Announcement]:
    failure = after.failure
    if failure is None or failure == before.failure:
        return
    what = "will be tried again" if failure.retried else "is not tried again"
    occasion = f"{revision}/{failure.stage}/{failure.attempt}"
    message = f"Stage {failure.stage}, attempt {failure.attempt}, {what}: {failure.message}"
    if failure.reason is Reason.STOPPED:
        yield Announcement("Normal", "Disrupted", message, occasion)
    elif failure.reason is Reason.GATE_FAILED:
        yield Announcement("Warning", "Rejected", f"Not published: {failure.message}", occasion)
    else:
        yield Announcement("Warning", failure.reason, message, occasion)


def _phase(after: FineTuneJobStatus, revision: str) -> Iterator[Announcement]:
    # A job may be suspended many times: each is told by the attempt that it ended.
    attempts = sum(stage.attempt for stage in after.stages)
    if after.phase is Phase.SUSPENDED:
        yield Announcement("Normal", "Suspended", "The job holds; nothing of it runs.", f"{revision}/{attempts}")
    elif after.phase is Phase.SUCCEEDED and after.artifact:
        yield Announcement("Normal", "Published", f"The result lies at {after.artifact.uri}.", revision)


def event(job: FineTuneJob, said: Announcement, now: datetime) -> dict[str, Any]:
    """The Event object."""
    meta = job.metadata
    occasion = hashlib.sha256(f"{meta.uid}/{said.occasion}/{said.reason}".encode()).hexdigest()[:16]
    moment = to_text(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name}.{occasion}", "namespace": meta.namespace, "labels": names.MANAGED_LABELS},
        "involvedObject": {
            "apiVersion": f"{API_GROUP}/{API_VERSION}",
            "kind": KIND,
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
        "type": said.type,
        "reason": said.reason,
        "message": clipped(said.message, _LONGEST_MESSAGE),
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
    }
