"""Causes of pending runs on a real API server: reported at once, cleared when resolved, timed out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api.failures import Fault, Reason
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, condition, stage

SETTINGS = {
    "trainer": {
        "image": "finetune-trainer:test",
        "stages": {"prepare": {"resources": {"limits": {"memory": "2Gi"}}}},
    }
}


Job = Mapping[str, Any]

IMPATIENT = {"resilience": {"pendingTimeoutSeconds": 2}}


@dataclass(frozen=True)
class Case:
    """A cause that keeps the first attempt pending."""

    name: str
    play: Callable[[Desk, Job], object]
    reason: Reason
    fault: Fault
    expected: str


def waiting(name: str, event_reason: str, text: str, reason: Reason, expected: str) -> Case:
    def play(desk: Desk, job: Job) -> None:
        (pod,) = desk.kubelet.create_pods(job)
        desk.kubelet.waiting(pod, event_reason, text)

    return Case(name, play, reason, reason.row.fault, expected)


def warned(name: str, event_reason: str, text: str, reason: Reason, expected: str, *, pod: bool) -> Case:
    def play(desk: Desk, job: Job) -> None:
        desk.kubelet.warn(
            {**(desk.kubelet.create_pod(job, 0) if pod else job), "kind": "Pod" if pod else "Job"}, event_reason, text
        )

    return Case(name, play, reason, reason.row.fault, expected)


CASES = (
    waiting(
        "image",
        "ImagePullBackOff",
        'Back-off pulling image "finetune-trainer:test"',
        Reason.IMAGE_UNAVAILABLE,
        "The image finetune-trainer:test of pod ",
    ),
    waiting(
        "missing-secret",
        "CreateContainerConfigError",
        'secret "s3" not found',
        Reason.SETUP_FAILED,
        '(CreateContainerConfigError): secret "s3" not found. Create the missing object, or correct its name in the '
        "job.",
    ),
    Case(
        "no-node",
        lambda desk, job: desk.kubelet.unschedulable(job, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        Reason.UNSCHEDULABLE,
        Fault.CLUSTER,
        ": 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. It starts when one fits.",
    ),
    warned(
        "mount",
        "FailedMount",
        'MountVolume.SetUp failed for volume "config"',
        Reason.SETUP_FAILED,
        'cannot be set up: MountVolume.SetUp failed for volume "config".',
        pod=True,
    ),
    warned(
        "pod-quota",
        "FailedCreate",
        'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: 8, used: 8, limited: 8',
        Reason.QUOTA_EXCEEDED,
        "The quota of the namespace does not allow the pods of Job ",
        pod=False,
    ),
    warned(
        "pod-security",
        "FailedCreate",
        'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsUser=0',
        Reason.FORBIDDEN,
        "The Pod Security level of the namespace does not allow the pods of Job ",
        pod=False,
    ),
)


@pytest.fixture(scope="module")
def desk_of_cases(office: tuple[Desk, Operator]) -> Desk:
    """A desk with every cause, each in a job with a long and in one with a short pending timeout."""
    desk, _ = office
    for case in CASES:
        desk.apply(f"{case.name}-patient")
        desk.apply(f"{case.name}-impatient", **IMPATIENT)
    for case in CASES:
        for mood in ("patient", "impatient"):
            case.play(desk, desk.child("prepare", name=f"{case.name}-{mood}"))
    return desk


class TestPendingRun:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reports_its_cause_and_starts_when_it_is_resolved(self, desk_of_cases: Desk, case: Case) -> None:
        desk, name = desk_of_cases, f"{case.name}-patient"
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", name)
        assert stage(status, "prepare")["waitingFor"] == case.reason
        assert case.expected in stage(status, "prepare")["message"]
        prepared = condition(status, "DataPrepared")
        assert (prepared["status"], prepared["reason"]) == ("Unknown", case.reason)
        assert case.expected in prepared["message"]
        assert status["progress"]["text"] == f"prepare: waiting: {case.reason}"
        assert "failure" not in status
        assert condition(status, "Stalled")["status"] == "False"
        assert desk.until_event(case.reason, name)["type"] == "Warning"
        job = desk.child("prepare", name=name)
        for pod in desk.kubelet.pods(job) or desk.kubelet.create_pods(job):
            desk.kubelet.started(pod)
        desk.until(lambda status: stage(status, "prepare")["state"] == "Running", "it runs", name)
        desk.kubelet.succeed(job)
        status = desk.until(lambda status: stage(status, "prepare")["state"] == "Succeeded", "it is done", name)
        assert "waitingFor" not in stage(status, "prepare")

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_times_out(self, desk_of_cases: Desk, case: Case) -> None:
        desk, name = desk_of_cases, f"{case.name}-impatient"
        job = desk.child("prepare", name=name)
        desk.being_ended(job)
        desk.kubelet.stopped(job, 143)
        status = desk.until_phase("Failed", name)
        failure = status["failure"]
        assert (failure["reason"], failure["fault"], failure["retried"]) == (case.reason, case.fault, False)
        assert case.expected in failure["message"]
        assert failure["message"].endswith("Not started within 1 minute.")
        assert "waitingFor" not in stage(status, "prepare")
        assert condition(status, "DataPrepared")["reason"] == case.reason


class TestRejectedObjects:
    def test_job_starts_when_the_quota_is_raised(self, desk: Desk, operator: Operator) -> None:
        name = {"name": "jobs", "namespace": desk.namespace}
        desk.api.create("ResourceQuota", {"metadata": name, "spec": {"hard": {"count/jobs.batch": "1"}}})
        # As the quota controller does when another Job exists.
        hard = {"hard": {"count/jobs.batch": "1"}, "used": {"count/jobs.batch": "1"}}
        desk.api.merge_status("ResourceQuota", "jobs", desk.namespace, hard)
        desk.apply()
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits")
        assert stage(status, "prepare")["waitingFor"] == Reason.QUOTA_EXCEEDED
        text = condition(status, "DataPrepared")["message"]
        assert "The quota of the namespace does not allow Job intents-r1-prepare-1: " in text
        assert "exceeded quota: jobs, requested: count/jobs.batch=1" in text
        desk.api.delete("ResourceQuota", "jobs", desk.namespace)
        desk.kubelet.run(desk.child("prepare"))
        status = desk.until(lambda status: stage(status, "prepare")["state"] == "Running", "it runs")
        assert stage(status, "prepare")["attempt"] == 1
        assert "failure" not in status

    FOREIGN: Mapping[str, Any] = {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox"}]}}
    }

    def test_job_starts_when_the_conflicting_job_is_deleted(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        body = {"metadata": {"name": "taken-r1-prepare-1", "namespace": desk.namespace}, "spec": self.FOREIGN}
        desk.api.create("Job", body)
        desk.apply("taken")
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", "taken")
        assert stage(status, "prepare")["waitingFor"] == Reason.SETUP_FAILED
        text = condition(status, "DataPrepared")["message"]
        assert "Job taken-r1-prepare-1 already exists and is not owned by this FineTuneJob. " in text
        assert len(text) < 2000
        foreign = desk.api.get("Job", "taken-r1-prepare-1", desk.namespace)
        assert "ownerReferences" not in foreign["metadata"]
        assert foreign["spec"]["template"]["spec"]["containers"][0]["name"] == "main"
        desk.api.delete("Job", "taken-r1-prepare-1", desk.namespace, propagationPolicy="Background")
        job = wait_until(lambda: self.own(desk, "taken-r1-prepare-1"), "its own Job is there")
        desk.kubelet.succeed(job)
        desk.child("train", name="taken")

    def test_child_of_a_deleted_job_of_the_same_name_is_not_adopted(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("again")
        old = desk.child("prepare", name="again")
        desk.api.delete("FineTuneJob", "again", desk.namespace)
        uid = desk.apply("again")["metadata"]["uid"]
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", "again")
        assert "but by a deleted one of the same name" in condition(status, "DataPrepared")["message"]
        # As the garbage collector does a little later.
        desk.api.delete("Job", old["metadata"]["name"], desk.namespace, propagationPolicy="Background")
        job = wait_until(lambda: self.own(desk, old["metadata"]["name"]), "its own Job is there")
        assert job["metadata"]["ownerReferences"][0]["uid"] == uid

    def test_orphan_of_a_deleted_job_is_reported(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("orphaned")
        name = desk.child("prepare", name="orphaned")["metadata"]["name"]
        desk.api.delete("FineTuneJob", "orphaned", desk.namespace, propagationPolicy="Orphan")
        # As the garbage collector does: first the children, then the finalizer.
        desk.api.merge("Job", name, desk.namespace, {"metadata": {"ownerReferences": None}})
        desk.api.merge("FineTuneJob", "orphaned", desk.namespace, {"metadata": {"finalizers": None}})
        desk.apply("orphaned")
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", "orphaned")
        text = condition(status, "DataPrepared")["message"]
        assert "it is an orphan of one of the same name" in text
        assert f"kubectl -n {desk.namespace} delete job {name}." in text
        desk.api.delete("Job", name, desk.namespace, propagationPolicy="Background")
        wait_until(lambda: self.own(desk, name), "its own Job is there")

    def test_service_of_another_job_or_release_is_reported(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        other = desk.apply("other", suspend=True)["metadata"]
        owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "other", "uid": other["uid"]}
        taken: tuple[tuple[str, dict[str, Any], str], ...] = (
            ("owned", {"ownerReferences": [{**owner, "controller": True}]}, "but by FineTuneJob other. Rename this"),
            ("released", {"annotations": {"meta.helm.sh/release-name": "web"}}, "but by the Helm release web. Rename"),
        )
        for name, fields, expected in taken:
            metadata = {"name": f"{name}-workers", "namespace": desk.namespace, **fields}
            desk.api.create(
                "Service", {"metadata": metadata, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}
            )
            desk.apply(name, distributed={"workers": 2, "gpusPerWorker": 0})
            desk.kubelet.succeed(desk.child("prepare", name=name))
            status = desk.until(lambda status: stage(status, "train").get("waitingFor"), "it waits", name)
            assert expected in condition(status, "Trained")["message"]

    @staticmethod
    def own(desk: Desk, name: str) -> Job | None:
        found = desk.api.find("Job", name, desk.namespace)
        return found if found and found["metadata"].get("ownerReferences") else None

    def test_conflicting_service_is_reported(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        metadata = {"name": "served-workers", "namespace": desk.namespace}
        desk.api.create(
            "Service", {"metadata": metadata, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
        )
        desk.apply("served", distributed={"workers": 2, "gpusPerWorker": 0})
        desk.kubelet.succeed(desk.child("prepare", name="served"))
        status = desk.until(lambda status: stage(status, "train").get("waitingFor"), "it waits", "served")
        text = condition(status, "Trained")["message"]
        assert "Service served-workers already exists and is not owned by this FineTuneJob. " in text
        assert "Job served-r1-train-1 already" not in text

    def test_deleted_service_is_recreated_with_the_next_attempt(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("robbed", distributed={"workers": 2, "gpusPerWorker": 0})
        train = desk.run_to("train", "robbed")
        desk.api.delete("Service", "robbed-workers", desk.namespace)
        desk.kubelet.break_(train, Reason.UNAVAILABLE.exit_code)
        desk.child("train", attempt=2, name="robbed")
        assert desk.api.find("Service", "robbed-workers", desk.namespace)
