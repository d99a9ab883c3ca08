"""The few facts that matter of a Job and of a pod: whole objects are ten times their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_core import names
from finetune_core.runs import RunId
from finetune_core.times import from_text

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Said:
    """A reason and a message, as Kubernetes gives them, and since when they hold."""

    reason: str
    message: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A child Job."""

    key: Key
    uid: str
    version: int
    owner: Key
    owner_uid: str
    run: RunId
    spec_digest: str
    created_at: datetime
    started_at: datetime | None
    workers: int
    ended_pods: int
    """How many of its pods have ended, as the Job controller counts them."""
    complete: Said | None
    failed: Said | None
    suspended: Said | None
    resumed_at: datetime | None
    """When it went on, after somebody or a queue had suspended it."""
    stopped: bool
    """The operator has ended it, or is about to."""
    deleting: bool

    def has(self, pod: PodFacts) -> bool:
        """Whether ``pod`` is one of its own, and not of those that went as it was suspended and were replaced."""
        asked = pod.delete_asked if pod.finished else None
        replaced = asked is not None and self.resumed_at is not None and asked <= self.resumed_at
        return pod.job_uid == self.uid and not replaced


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """How the container of a stage ended."""

    exit_code: int
    reason: str
    message: str
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod of a child Job."""

    key: Key
    uid: str
    version: int
    owner: Key
    job_uid: str
    run: RunId
    index: int
    phase: str
    failed: Said
    """Why the pod as a whole failed, such as Evicted."""
    node: str
    """Where it is; empty until it is scheduled."""
    address: str
    created_at: datetime
    unscheduled: Said | None
    disrupted: Said | None
    waiting: Said | None
    image: str
    memory_limit: str
    started_at: datetime | None
    ended: ContainerEnd | None
    delete_asked: datetime | None
    """When its deletion was asked for."""
    delete_by: datetime | None
    """When it must be gone, once its deletion was asked for."""
    gone: bool = False
    """It was deleted; this is what was last seen of it."""

    @property
    def finished(self) -> bool:
        return self.gone or self.phase in ("Succeeded", "Failed")

    @property
    def has_started(self) -> bool:
        """Whether the container runs or ran, so that it has a log."""
        return self.started_at is not None or self.ended is not None


def key_of(found: Mapping[str, Any]) -> Key:
    """Namespace and name of any object."""
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(found: Mapping[str, Any]) -> int:
    """Resource version of any object or list; they grow."""
    text = found["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdigit() else 0


def job_facts(found: Mapping[str, Any]) -> JobFacts | None:
    """The facts of a Job; None when it is none of ours."""
    metadata, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    named = names.run_of(metadata.get("labels") or {})
    owner = _controller(metadata)
    if named is None or owner is None:
        return None
    conditions = {(c["type"], c["status"]): _said(c) for c in status.get("conditions") or ()}
    suspended, resumed = (conditions.get(("Suspended", truth)) for truth in ("True", "False"))
    annotations = metadata.get("annotations") or {}
    return JobFacts(
        key=key_of(found),
        uid=metadata["uid"],
        version=version_of(found),
        owner=(metadata["namespace"], named[0]),
        owner_uid=owner["uid"],
        run=named[1],
        spec_digest=annotations.get(names.SPEC_DIGEST_ANNOTATION, ""),
        created_at=from_text(metadata["creationTimestamp"]),
        started_at=_time(status.get("startTime")),
        workers=spec.get("completions") or 1,
        ended_pods=(status.get("succeeded") or 0) + (status.get("failed") or 0),
        complete=conditions.get(("Complete", "True")),
        failed=conditions.get(("Failed", "True")),
        suspended=suspended if spec.get("suspend") else None,
        resumed_at=resumed.since if resumed else None,
        stopped=names.STOP_ANNOTATION in annotations,
        deleting="deletionTimestamp" in metadata,
    )


def pod_facts(found: Mapping[str, Any], gone: bool = False) -> PodFacts | None:
    """The facts of a pod; None when it is none of ours."""
    metadata, spec, status = found["metadata"], found["spec"], found.get("status") or {}
    named = names.run_of(metadata.get("labels") or {})
    job = _controller(metadata)
    if named is None or job is None:
        return None
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    unscheduled = conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {})
    state = _named(status.get("containerStatuses"), names.CONTAINER).get("state") or {}
    running, terminated, waiting = (state.get(name) or {} for name in ("running", "terminated", "waiting"))
    container = _named(spec["containers"], names.CONTAINER)
    delete_by = _time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return PodFacts(
        key=key_of(found),
        uid=metadata["uid"],
        version=version_of(found),
        owner=(metadata["namespace"], named[0]),
        job_uid=job["uid"],
        run=named[1],
        index=names.index_of(metadata.get("annotations") or {}),
        phase=status.get("phase", "Pending"),
        failed=Said(status.get("reason", ""), status.get("message", "")),
        node=spec.get("nodeName", ""),
        address=status.get("podIP", ""),
        created_at=from_text(metadata["creationTimestamp"]),
        unscheduled=_said(unscheduled) if unscheduled.get("status") == "False" else None,
        disrupted=_said(disrupted) if disrupted.get("status") == "True" else None,
        waiting=Said(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        image=container.get("image", ""),
        memory_limit=str(((container.get("resources") or {}).get("limits") or {}).get("memory", "")),
        started_at=_time(running.get("startedAt") or terminated.get("startedAt")),
        ended=_end(terminated) if "exitCode" in terminated else None,
        delete_asked=delete_by - grace if delete_by else None,
        delete_by=delete_by,
        gone=gone,
    )


def _named(entries: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    return next((entry for entry in entries or () if entry["name"] == name), {})


def _end(terminated: Mapping[str, Any]) -> ContainerEnd:
    return ContainerEnd(
        exit_code=terminated["exitCode"],
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        finished_at=_time(terminated.get("finishedAt")),
    )


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)


def _said(condition: Mapping[str, Any]) -> Said:
    return Said(condition.get("reason", ""), condition.get("message", ""), _time(condition.get("lastTransitionTime")))


def _time(text: str | None) -> datetime | None:
    return from_text(text) if text else None
