"""Builds Jobs and pods as the API server returns them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.failures import Reason
from finetune_api.stage import Stage, StageError, StageReport
from finetune_core import names
from finetune_core.runs import RunId
from finetune_core.times import to_text
from finetune_kube.objects import ChildJob, ChildPod, parse_job, parse_pod
from tests.builders import NOON, a_report, manifest

Object = dict[str, Any]


def a_fine_tune_job(name: str = "intents", version: int = 1, uid: str = "uid-1", **fields: Any) -> Object:
    document = manifest()
    metadata = {**document["metadata"], "name": name, "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {**document, "metadata": metadata, **fields}


def a_child(
    stage: Stage = Stage.TRAIN,
    attempt: int = 1,
    *,
    workers: int = 1,
    version: int = 1,
    uid: str = "job-uid",
    owner_uid: str = "uid-1",
    metadata: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    **status: Any,
) -> Object:
    run = RunId(1, stage, attempt)
    owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "intents", "uid": owner_uid}
    return {
        "metadata": {
            "name": names.run_name("intents", run),
            "namespace": "team-a",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": to_text(NOON),
            "labels": names.labels("intents", run),
            "annotations": {names.SPEC_DIGEST_ANNOTATION: "sha256:1"},
            "ownerReferences": [{**owner, "controller": True}],
            **(metadata or {}),
        },
        "spec": {"completions": workers, **(spec or {})},
        "status": status,
    }


def a_pod(
    child: Mapping[str, Any],
    index: int = 0,
    *,
    version: int = 1,
    uid: str = "",
    metadata: Mapping[str, Any] | None = None,
    limit: str = "",
    **status: Any,
) -> Object:
    meta = child["metadata"]
    container: Object = {"name": "trainer", "image": "finetune-trainer:test"}
    if limit:
        container["resources"] = {"limits": {"memory": limit}}
    return {
        "metadata": {
            "name": f"{meta['name']}-{index}-{uid or 'abcde'}",
            "namespace": meta["namespace"],
            "uid": uid or f"pod-uid-{index}",
            "resourceVersion": str(version),
            "creationTimestamp": to_text(NOON),
            "labels": dict(meta["labels"]),
            "annotations": {names.INDEX_ANNOTATION: str(index)},
            "ownerReferences": [{"kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}],
            **(metadata or {}),
        },
        "spec": {"containers": [container], "nodeName": "node-1"},
        "status": {"phase": "Pending", **status},
    }


def running(started_at: datetime = NOON) -> Object:
    """The status of a running pod."""
    state = {"running": {"startedAt": to_text(started_at)}}
    return {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{"name": "trainer", "state": state}]}


def waiting(reason: str, message: str = "") -> Object:
    """The status of a pod whose container is waiting."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "trainer", "state": state}]}


def ended(code: int, message: str = "", at: datetime = NOON, reason: str = "Error") -> Object:
    """The status of a terminated pod."""
    moment = to_text(at)
    terminated = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": to_text(NOON),
        "finishedAt": moment,
    }
    phase = "Failed" if code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}]}


def true(type_: str, reason: str = "", message: str = "", status: str = "True") -> Object:
    """A condition."""
    moment = to_text(NOON)
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


def job_of(obj: Mapping[str, Any]) -> ChildJob:
    job = parse_job(obj)
    assert job is not None
    return job


def pod_of(obj: Mapping[str, Any], deleted: bool = False) -> ChildPod:
    pod = parse_pod(obj, deleted)
    assert pod is not None
    return pod


def success(stage: Stage = Stage.TRAIN, attempt: int = 1) -> str:
    """The termination message of a stage that succeeded."""
    return a_report(stage, attempt).to_termination_message().decode()


def failure(reason: Reason, stage: Stage = Stage.TRAIN, attempt: int = 1, rank: int | None = None) -> str:
    """The termination message of a stage that failed."""
    error = StageError(reason=reason, message=f"It met {reason}.", exit_code=reason.exit_code, rank=rank)
    report = StageReport(stage=stage, attempt=attempt, seconds=1.0, error=error)
    return report.to_termination_message().decode()
