"""Parses Jobs and pods into small records with the fields that matter: whole objects are ten times their size."""

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
class StatusDetail:
    """Reason and message of a condition or a container state, and its last transition."""

    reason: str
    message: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A child Job of a FineTuneJob."""

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
    finished_pods: int
    """Number of succeeded and failed pods, as the Job controller counts them."""
    complete: StatusDetail | None
    failed: StatusDetail | None
    failing: StatusDetail | None
    """The Job controller has begun to delete the pods, because one has failed."""
    suspended: StatusDetail | None
    resumed_at: datetime | None
    """When the Job was last resumed after a suspension, by a person or a queue."""
    stop_requested: bool
    """The operator has stopped the Job."""
    deleting: bool

    def owns(self, pod: ChildPod) -> bool:
        """Whether ``pod`` belongs to this Job and was not replaced after a suspension of the Job."""
        deleted_at = pod.deletion_requested_at if pod.finished else None
        replaced = deleted_at is not None and self.resumed_at is not None and deleted_at <= self.resumed_at
        return pod.job_uid == self.uid and not replaced


@dataclass(frozen=True, slots=True)
class ContainerTermination:
    """How the container of a stage terminated."""

    exit_code: int
    reason: str
    message: str
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ChildPod:
    """A pod of a child Job."""

    key: Key
    uid: str
    version: int
    owner: Key
    job_uid: str
    run: RunId
    index: int
    phase: str
    ready: bool
    """Whether its readiness probe passes."""
    failure: StatusDetail
    """Why the pod as a whole failed, such as Evicted; empty otherwise."""
    node: str
    """Its node; empty until the pod is scheduled."""
    address: str
    created_at: datetime
    not_scheduled: StatusDetail | None
    disruption: StatusDetail | None
    waiting: StatusDetail | None
    image: str
    memory_limit: str
    started_at: datetime | None
    terminated: ContainerTermination | None
    has_sidecars: bool
    """Whether other containers of the pod run."""
    deletion_requested_at: datetime | None
    deletion_deadline: datetime | None
    """When the grace period of its deletion ends."""
    deleted: bool = False
    """The pod no longer exists; this is its last observed state."""

    @property
    def finished(self) -> bool:
        """Whether the stage's container has ended; a sidecar, such as that of a mesh, may keep the pod alive."""
        return self.deleted or self.terminated is not None or self.phase in ("Succeeded", "Failed")

    @property
    def lingers(self) -> bool:
        """Whether only sidecars of the pod still run, and nobody has deleted it."""
        return self.terminated is not None and self.has_sidecars and self.deletion_deadline is None and not self.deleted

    @property
    def has_started(self) -> bool:
        """Whether the container runs or ran, so that it has a log."""
        return self.started_at is not None or self.terminated is not None


def key_of(obj: Mapping[str, Any]) -> Key:
    """Namespace and name of any object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(obj: Mapping[str, Any]) -> int:
    """Resource version of any object or list. A newer object has a greater one."""
    text = obj["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdigit() else 0


def parse_job(obj: Mapping[str, Any]) -> ChildJob | None:
    """The child Job in ``obj``; None if it is not a child of a FineTuneJob."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    named = names.run_of(metadata.get("labels") or {})
    owner = _controller(metadata)
    if named is None or owner is None:
        return None
    conditions = {(c["type"], c["status"]): _detail(c) for c in status.get("conditions") or ()}
    suspended, resumed = (conditions.get(("Suspended", truth)) for truth in ("True", "False"))
    annotations = metadata.get("annotations") or {}
    return ChildJob(
        key=key_of(obj),
        uid=metadata["uid"],
        version=version_of(obj),
        owner=(metadata["namespace"], named[0]),
        owner_uid=owner["uid"],
        run=named[1],
        spec_digest=annotations.get(names.SPEC_DIGEST_ANNOTATION, ""),
        created_at=from_text(metadata["creationTimestamp"]),
        started_at=_time(status.get("startTime")),
        workers=spec.get("completions") or 1,
        finished_pods=(status.get("succeeded") or 0) + (status.get("failed") or 0),
        complete=conditions.get(("Complete", "True")),
        failed=conditions.get(("Failed", "True")),
        failing=conditions.get(("FailureTarget", "True")) or conditions.get(("Failed", "True")),
        suspended=suspended if spec.get("suspend") else None,
        resumed_at=resumed.since if resumed else None,
        stop_requested=names.STOP_ANNOTATION in annotations,
        deleting="deletionTimestamp" in metadata,
    )


def parse_pod(obj: Mapping[str, Any], deleted: bool = False) -> ChildPod | None:
    """The pod in ``obj``; None if it is not a pod of a child Job."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    named = names.run_of(metadata.get("labels") or {})
    job = _controller(metadata)
    if named is None or job is None:
        return None
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    state = _named(status.get("containerStatuses"), names.CONTAINER).get("state") or {}
    running, terminated, waiting = (state.get(name) or {} for name in ("running", "terminated", "waiting"))
    if waiting:
        # The stage waits for the sandbox, which is an init container.
        sandbox = _named(status.get("initContainerStatuses"), names.SANDBOX).get("state") or {}
        waiting = sandbox.get("waiting") or waiting
    container = _named(spec["containers"], names.CONTAINER)
    deletion_deadline = _time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return ChildPod(
        key=key_of(obj),
        uid=metadata["uid"],
        version=version_of(obj),
        owner=(metadata["namespace"], named[0]),
        job_uid=job["uid"],
        run=named[1],
        index=names.index_of(metadata.get("annotations") or {}),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        failure=StatusDetail(status.get("reason", ""), status.get("message", "")),
        node=spec.get("nodeName", ""),
        address=status.get("podIP", ""),
        created_at=from_text(metadata["creationTimestamp"]),
        not_scheduled=_detail(scheduled) if scheduled.get("status") == "False" else None,
        disruption=_detail(disruption) if disruption.get("status") == "True" else None,
        waiting=StatusDetail(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        image=container.get("image", ""),
        memory_limit=str(((container.get("resources") or {}).get("limits") or {}).get("memory", "")),
        started_at=_time(running.get("startedAt") or terminated.get("startedAt")),
        terminated=_termination(terminated) if "exitCode" in terminated else None,
        has_sidecars=any(
            "running" in (other.get("state") or {})
            for other in status.get("containerStatuses") or ()
            if other["name"] != names.CONTAINER
        ),
        deletion_requested_at=deletion_deadline - grace if deletion_deadline else None,
        deletion_deadline=deletion_deadline,
        deleted=deleted,
    )


def _named(entries: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    return next((entry for entry in entries or () if entry["name"] == name), {})


def _termination(terminated: Mapping[str, Any]) -> ContainerTermination:
    return ContainerTermination(
        exit_code=terminated["exitCode"],
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        finished_at=_time(terminated.get("finishedAt")),
    )


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)


def _detail(condition: Mapping[str, Any]) -> StatusDetail:
    return StatusDetail(
        condition.get("reason", ""), condition.get("message", ""), _time(condition.get("lastTransitionTime"))
    )


def _time(text: str | None) -> datetime | None:
    return from_text(text) if text else None
