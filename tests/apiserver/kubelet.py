"""Simulates the Job controller and the kubelet: creates the pods of a Job and sets their status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from finetune_api.stage import Stage, StageError, StageReport
from tests.apiserver.api import Api
from tests.builders import a_report
from tests.ports import LOOPBACK

INDEX = "batch.kubernetes.io/job-completion-index"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelet:
    """All nodes of the cluster, and the Job controller."""

    def __init__(self, api: Api, address: str = LOOPBACK) -> None:
        self._api = api
        self._address = address

    def create_pods(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The pods of a Job, scheduled but without a container status."""
        return [self.create_pod(job, index) for index in range(job["spec"]["completions"])]

    def create_pod(self, job: Mapping[str, Any], index: int, **spec: Any) -> dict[str, Any]:
        meta, template = job["metadata"], job["spec"]["template"]
        self._start(job)
        name = f"{meta['name']}-{index}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": f"{name}-",
                "namespace": meta["namespace"],
                "labels": {
                    **template["metadata"]["labels"],
                    "batch.kubernetes.io/job-name": meta["name"],
                    "batch.kubernetes.io/controller-uid": meta["uid"],
                },
                "annotations": {**template["metadata"].get("annotations", {}), INDEX: str(index)},
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], "hostname": name, "nodeName": "node-1", **spec},
        }
        return self._api.create("Pod", pod)

    def run(self, job: Mapping[str, Any], since: str = "") -> list[dict[str, Any]]:
        """Set pods to running."""
        return [self.started(pod, since) for pod in self.create_pods(job)]

    def started(self, pod: Mapping[str, Any], since: str = "") -> dict[str, Any]:
        state = {"running": {"startedAt": since or now()}}
        return self._status(
            pod,
            phase="Running",
            podIP=self._address,
            podIPs=[{"ip": self._address}],
            startTime=now(),
            containerStatuses=[self._container(pod, state, ready=True)],
        )

    def waiting(self, pod: Mapping[str, Any], reason: str, message: str = "") -> dict[str, Any]:
        """Set the container of a pod to waiting."""
        state = {"waiting": {"reason": reason, "message": message}}
        return self._status(pod, phase="Pending", containerStatuses=[self._container(pod, state)])

    def unschedulable(self, job: Mapping[str, Any], message: str) -> dict[str, Any]:
        """Make a pod unschedulable."""
        pod = self.create_pod(job, 0, nodeName=None)
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now(),
        }
        return self._status(pod, phase="Pending", conditions=[condition])

    def ended(
        self,
        pod: Mapping[str, Any],
        code: int,
        message: str = "",
        reason: str = "",
        disrupted: str = "",
        **status: Any,
    ) -> dict[str, Any]:
        """Terminate the container of a pod."""
        if disrupted:
            condition = {"type": "DisruptionTarget", "status": "True", "reason": disrupted, "lastTransitionTime": now()}
            status["conditions"] = [condition | {"message": f"{disrupted} took the pod"}]
        return self._status(
            pod,
            phase="Succeeded" if code == 0 else "Failed",
            containerStatuses=[self._terminated(pod, code, message, reason)],
            **status,
        )

    def ended_beside_sidecar(self, pod: Mapping[str, Any], code: int, message: str = "") -> dict[str, Any]:
        """Terminate the stage's container of a pod in which the sidecar of a mesh runs on."""
        sidecar = {**self._container(pod, {"running": {"startedAt": now()}}, ready=True), "name": "istio-proxy"}
        statuses = [self._terminated(pod, code, message), sidecar]
        return self._status(pod, phase="Running", containerStatuses=statuses)

    def evicted(self, pod: Mapping[str, Any], reason: str, text: str, code: int | None = None) -> dict[str, Any]:
        """Fail a pod as a whole; with ``code``, its container terminates in the same update."""
        containers = {} if code is None else {"containerStatuses": [self._terminated(pod, code)]}
        return self._status(pod, phase="Failed", reason=reason, message=text, **containers)

    def _terminated(self, pod: Mapping[str, Any], code: int, message: str = "", reason: str = "") -> dict[str, Any]:
        terminated = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "startedAt": now(),
            "finishedAt": now(),
        }
        return self._container(pod, {"terminated": terminated})

    def lost(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """A pod on a node that does not respond."""
        disruption = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": now(),
        }
        return self._status(pod, phase="Failed", conditions=[disruption])

    def complete(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Set the Complete condition of a Job whose pods all succeeded."""
        conditions = [
            _condition("SuccessCriteriaMet", "CompletionsReached"),
            _condition("Complete", "CompletionsReached"),
        ]
        count = job["spec"]["completions"]
        indexes = "0" if count == 1 else f"0-{count - 1}"
        return self._job_status(
            job, conditions=conditions, completionTime=now(), succeeded=count, completedIndexes=indexes
        )

    def fail(self, job: Mapping[str, Any], reason: str = "BackoffLimitExceeded") -> dict[str, Any]:
        """Set the Failed condition of a Job."""
        conditions = [_condition("FailureTarget", reason), _condition("Failed", reason)]
        return self._job_status(job, conditions=conditions, failed=job["spec"]["completions"])

    def succeed(self, job: Mapping[str, Any], report: StageReport | None = None) -> None:
        """Let all pods of a Job run and succeed; does nothing if they have."""
        meta = job["metadata"]
        if "completionTime" in self._api.get("Job", meta["name"], meta["namespace"]).get("status", {}):
            return
        for pod in self.pods(job) or self.run(job):
            index = pod["metadata"]["annotations"][INDEX]
            self.ended(pod, 0, message(report or report_of(job)) if index == "0" else "")
        self.complete(job)

    def break_(self, job: Mapping[str, Any], code: int, error: StageError | None = None, **facts: Any) -> None:
        """Let all pods of a Job end with ``code``."""
        stage, attempt = stage_of(job)
        text = message(StageReport(stage=stage, attempt=attempt, seconds=1.0, error=error)) if error else ""
        for pod in self.pods(job) or self.run(job):
            self.ended(pod, code, **{"message": text, **facts})
        self.fail(job)

    def stopped(self, job: Mapping[str, Any], code: int, error: StageError | None = None) -> None:
        """Execute the deadline that the operator has set on a Job: its pods end and are deleted."""
        stage, attempt = stage_of(job)
        text = message(StageReport(stage=stage, attempt=attempt, seconds=1.0, error=error)) if error else ""
        for pod in self.pods(job):
            self.ended(pod, code, text)
            self.remove(pod)
        self.fail(job, "DeadlineExceeded")

    def pods(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        meta = job["metadata"]
        selector = f"batch.kubernetes.io/controller-uid={meta['uid']}"
        return self._api.list("Pod", meta["namespace"], labelSelector=selector)

    def remove(self, pod: Mapping[str, Any]) -> None:
        """Remove a terminating pod, as the kubelet does at its end."""
        self._api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"], gracePeriodSeconds=0)

    def warn(self, about: Mapping[str, Any], reason: str, text: str) -> None:
        """Create a Warning Event about a Job or a pod."""
        meta = about["metadata"]
        involved = {"kind": about["kind"], "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
        event = {
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": involved,
            "type": "Warning",
            "reason": reason,
            "message": text,
        }
        self._api.create("Event", event)

    def _status(self, pod: Mapping[str, Any], **status: Any) -> dict[str, Any]:
        meta = pod["metadata"]
        return self._api.merge_status("Pod", meta["name"], meta["namespace"], status)

    def _start(self, job: Mapping[str, Any]) -> None:
        meta = job["metadata"]
        if "startTime" not in self._api.get("Job", meta["name"], meta["namespace"]).get("status", {}):
            self._api.merge_status("Job", meta["name"], meta["namespace"], {"startTime": now()})

    def _job_status(self, job: Mapping[str, Any], **status: Any) -> dict[str, Any]:
        meta = job["metadata"]
        self._start(job)
        return self._api.merge_status("Job", meta["name"], meta["namespace"], status)

    @staticmethod
    def _container(pod: Mapping[str, Any], state: Mapping[str, Any], ready: bool = False) -> dict[str, Any]:
        container = pod["spec"]["containers"][0]
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }


def stage_of(job: Mapping[str, Any]) -> tuple[Stage, int]:
    """Stage and attempt of a child Job."""
    labels = job["metadata"]["labels"]
    return Stage(labels["finetune.dev/stage"]), int(labels["finetune.dev/attempt"])


def report_of(job: Mapping[str, Any]) -> StageReport:
    """The report of a stage that succeeded."""
    return a_report(*stage_of(job))


def message(report: StageReport) -> str:
    """A report as a termination message."""
    return report.to_termination_message().decode()


def names(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(item["metadata"]["name"] for item in found)


def _condition(type_: str, reason: str) -> dict[str, str]:
    return {
        "type": type_,
        "status": "True",
        "reason": reason,
        "message": reason,
        "lastTransitionTime": now(),
        "lastProbeTime": now(),
    }
