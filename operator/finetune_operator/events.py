"""The Events of a FineTuneJob, each created once.

The name of an Event is derived from its content, so a restarted or a second operator does not create it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.failures import Reason
from finetune_api.job import Condition, ConditionType, FineTuneJob, FineTuneJobStatus, Phase, StageState
from finetune_core import names
from finetune_core.sentences import clipped
from finetune_core.summaries import revision_change
from finetune_core.times import to_text

_MAX_MESSAGE_LENGTH = 1024
"""The API server rejects Events with a longer message."""
_UNREPORTED = timedelta(minutes=10)
"""Longer than an operator needs to restart, shorter than the hour for which the API server keeps Events."""


@dataclass(frozen=True)
class JobEvent:
    """One Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    occasion: str
    """Distinguishes it from other Events of the same reason: revision, stage, attempt."""


def events_between(before: FineTuneJobStatus, after: FineTuneJobStatus) -> Iterator[JobEvent]:
    """The Events for a change of the status."""
    revision = f"r{after.revision}"
    if before.revision != after.revision and before.revision:
        yield JobEvent("Normal", "NewRevision", revision_change(before, after), revision)
    known = {stage.name: stage for stage in before.stages} if before.revision == after.revision else {}
    failure = list(_failure(before, after, revision))
    for stage in after.stages:
        if failure and after.failure and after.failure.stage is stage.name and after.failure.attempt < stage.attempt:
            # The next attempt has started already; the failure comes first.
            yield failure.pop()
        old = known.get(stage.name)
        run = f"{revision}/{stage.name}/{stage.attempt}"
        if stage.attempt and (old is None or old.attempt < stage.attempt):
            again = f", attempt {stage.attempt}" if stage.attempt > 1 else ""
            yield JobEvent("Normal", f"{stage.name.capitalize()}Started", f"Stage {stage.name} started{again}.", run)
        if stage.waiting_for and (old is None or old.waiting_for != stage.waiting_for):
            yield JobEvent("Warning", stage.waiting_for, stage.message, f"{run}/{stage.waiting_for}")
        if stage.state is StageState.SUCCEEDED and (old is None or old.state is not StageState.SUCCEEDED):
            yield JobEvent("Normal", f"{stage.name.capitalize()}Succeeded", f"{stage.message}.", run)
    yield from failure
    if after.phase is not before.phase:
        yield from _phase(after, revision)


def unreported(status: FineTuneJobStatus, now: datetime) -> Iterator[JobEvent]:
    """The Events of recent changes, which an operator that crashed after the status write may not have created."""
    since = to_text(now - _UNREPORTED)
    changes = [condition.last_transition_time for condition in status.conditions]
    changes += [stage.attempt_start_time or "" for stage in status.stages]
    if max(changes, default="") >= since:
        yield from events_between(_earlier(status, since), status)


def _earlier(status: FineTuneJobStatus, since: str) -> FineTuneJobStatus:
    """What ``status`` was before ``since``, as far as it tells."""
    stages = {stage.name: stage for stage in status.stages if "" < (stage.attempt_start_time or "") < since}
    if not stages and status.history:
        previous = status.history[-1]
        return FineTuneJobStatus(revision=previous.revision, spec_digest=previous.spec_digest)
    failure = status.failure
    if failure and (failure.stage not in stages or failure.attempt == stages[failure.stage].attempt):
        failure = None
    for name, stage in stages.items():
        # Nothing tells since when pods wait; that they do is still true.
        running = {"state": StageState.RUNNING} if (stage.completion_time or "") >= since else {}
        stages[name] = stage.model_copy(update={"waiting_for": None, **running})
    return FineTuneJobStatus(revision=status.revision, stages=tuple(stages.values()), failure=failure)


def _failure(before: FineTuneJobStatus, after: FineTuneJobStatus, revision: str) -> Iterator[JobEvent]:
    failure = after.failure
    if failure is None or failure == before.failure:
        return
    what = "is retried" if failure.retried else "is not retried"
    occasion = f"{revision}/{failure.stage}/{failure.attempt}"
    ended = "was stopped" if failure.reason is Reason.STOPPED else "failed"
    message = f"Attempt {failure.attempt} of stage {failure.stage} {ended} and {what}: {failure.message}"
    if failure.reason is Reason.STOPPED:
        yield JobEvent("Normal", "Disrupted", message, occasion)
    elif failure.reason is Reason.GATE_FAILED:
        yield JobEvent("Warning", "Rejected", f"Not published: {failure.message}", occasion)
    else:
        yield JobEvent("Warning", failure.reason, message, occasion)


def _phase(after: FineTuneJobStatus, revision: str) -> Iterator[JobEvent]:
    # A job may be suspended many times: the number of attempts distinguishes the Events.
    attempts = sum(stage.attempt for stage in after.stages)
    if after.phase is Phase.SUSPENDED:
        yield JobEvent("Normal", "Suspended", "The job is suspended; its pods have ended.", f"{revision}/{attempts}")
    elif after.phase is Phase.FAILED and not after.completion_time and (refused := _not_accepted(after)):
        yield JobEvent(
            "Warning", refused.reason, refused.message, f"{revision}/{attempts}/{refused.observed_generation}"
        )
    elif after.phase is Phase.SUCCEEDED and after.artifact:
        yield JobEvent("Normal", "Published", f"The artifact is published at {after.artifact.uri}.", revision)


def _not_accepted(status: FineTuneJobStatus) -> Condition | None:
    return next((c for c in status.conditions if c.type is ConditionType.ACCEPTED and c.status == "False"), None)


def event_object(job: FineTuneJob, event: JobEvent, now: datetime) -> dict[str, Any]:
    """The Event object."""
    meta = job.metadata
    occasion = hashlib.sha256(f"{meta.uid}/{event.occasion}/{event.reason}".encode()).hexdigest()[:16]
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
        "type": event.type,
        "reason": event.reason,
        "message": clipped(event.message, _MAX_MESSAGE_LENGTH),
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
    }
