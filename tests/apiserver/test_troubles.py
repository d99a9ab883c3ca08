"""What keeps a run from computing on a real API server: told at once, gone when it passes, given up in time."""

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
class Trouble:
    """Something that keeps the first attempt from computing."""

    name: str
    play: Callable[[Desk, Job], object]
    reason: Reason
    fault: Fault
    says: str


def waiting(name: str, said: str, text: str, reason: Reason, says: str) -> Trouble:
    def play(desk: Desk, job: Job) -> None:
        (pod,) = desk.kubelet.create_pods(job)
        desk.kubelet.waiting(pod, said, text)

    return Trouble(name, play, reason, reason.row.fault, says)


def warned(name: str, said: str, text: str, reason: Reason, says: str, *, pod: bool) -> Trouble:
    def play(desk: Desk, job: Job) -> None:
        desk.kubelet.warn(
            {**(desk.kubelet.create_pod(job, 0) if pod else job), "kind": "Pod" if pod else "Job"}, said, text
        )

    return Trouble(name, play, reason, reason.row.fault, says)


TROUBLES = (
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
        '(CreateContainerConfigError): secret "s3" not found. Create what is missing, or correct its name in the job.',
    ),
    Trouble(
        "no-node",
        lambda desk, job: desk.kubelet.unschedulable(job, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        Reason.UNSCHEDULABLE,
        Fault.CLUSTER,
        ": 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. It starts when one does.",
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
        "The namespace's quota has no room for the pods of Job ",
        pod=False,
    ),
    warned(
        "pod-security",
        "FailedCreate",
        'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsUser=0',
        Reason.FORBIDDEN,
        "The namespace's pod security denies the pods of Job ",
        pod=False,
    ),
)


@pytest.fixture(scope="module")
def desk_of_troubles(office: tuple[Desk, Operator]) -> Desk:
    """A desk with every trouble, each in a patient and in an impatient job."""
    desk, _ = office
    for trouble in TROUBLES:
        desk.apply(f"{trouble.name}-patient")
        desk.apply(f"{trouble.name}-impatient", **IMPATIENT)
    for trouble in TROUBLES:
        for mood in ("patient", "impatient"):
            trouble.play(desk, desk.child("prepare", name=f"{trouble.name}-{mood}"))
    return desk


class TestARunThatDoesNotGetToCompute:
    @pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
    def test_says_what_it_waits_for_and_goes_on_when_that_has_passed(
        self, desk_of_troubles: Desk, trouble: Trouble
    ) -> None:
        desk, name = desk_of_troubles, f"{trouble.name}-patient"
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", name)
        assert stage(status, "prepare")["waitingFor"] == trouble.reason
        assert trouble.says in stage(status, "prepare")["message"]
        prepared = condition(status, "DataPrepared")
        assert (prepared["status"], prepared["reason"]) == ("Unknown", trouble.reason)
        assert trouble.says in prepared["message"]
        assert status["progress"]["text"] == f"prepare: waiting: {trouble.reason}"
        assert "failure" not in status
        assert condition(status, "Stalled")["status"] == "False"
        assert any(event["reason"] == trouble.reason and event["type"] == "Warning" for event in desk.events(name))
        job = desk.child("prepare", name=name)
        for pod in desk.kubelet.pods(job) or desk.kubelet.create_pods(job):
            desk.kubelet.started(pod)
        desk.until(lambda status: stage(status, "prepare")["state"] == "Running", "it runs", name)
        desk.kubelet.succeed(job)
        status = desk.until(lambda status: stage(status, "prepare")["state"] == "Succeeded", "it is done", name)
        assert "waitingFor" not in stage(status, "prepare")

    @pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
    def test_is_given_up_in_time(self, desk_of_troubles: Desk, trouble: Trouble) -> None:
        desk, name = desk_of_troubles, f"{trouble.name}-impatient"
        job = desk.child("prepare", name=name)
        desk.being_ended(job)
        desk.kubelet.stopped(job, 143)
        status = desk.until_phase("Failed", name)
        failure = status["failure"]
        assert (failure["reason"], failure["fault"], failure["retried"]) == (trouble.reason, trouble.fault, False)
        assert trouble.says in failure["message"]
        assert failure["message"].endswith("Given up after 1 minute.")
        assert "waitingFor" not in stage(status, "prepare")
        assert condition(status, "DataPrepared")["reason"] == trouble.reason


class TestAJobThatKubernetesRefuses:
    def test_goes_on_when_the_quota_is_raised(self, desk: Desk, operator: Operator) -> None:
        name = {"name": "jobs", "namespace": desk.namespace}
        desk.api.create("ResourceQuota", {"metadata": name, "spec": {"hard": {"count/jobs.batch": "0"}}})
        # What the quota controller would do.
        hard = {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}
        desk.api.merge_status("ResourceQuota", "jobs", desk.namespace, hard)
        desk.apply()
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits")
        assert stage(status, "prepare")["waitingFor"] == Reason.QUOTA_EXCEEDED
        told = condition(status, "DataPrepared")["message"]
        assert "The namespace's quota has no room for Job intents-r1-prepare-1: " in told
        assert "exceeded quota: jobs, requested: count/jobs.batch=1" in told
        desk.api.delete("ResourceQuota", "jobs", desk.namespace)
        desk.kubelet.run(desk.child("prepare"))
        status = desk.until(lambda status: stage(status, "prepare")["state"] == "Running", "it runs")
        assert stage(status, "prepare")["attempt"] == 1
        assert "failure" not in status

    FOREIGN: Mapping[str, Any] = {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox"}]}}
    }

    def test_goes_on_when_the_job_that_took_its_name_is_gone(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        body = {"metadata": {"name": "taken-r1-prepare-1", "namespace": desk.namespace}, "spec": self.FOREIGN}
        desk.api.create("Job", body)
        desk.apply("taken")
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", "taken")
        assert stage(status, "prepare")["waitingFor"] == Reason.SETUP_FAILED
        told = condition(status, "DataPrepared")["message"]
        assert "There is a Job taken-r1-prepare-1 that is not this job's" in told
        assert len(told) < 2000
        foreign = desk.api.get("Job", "taken-r1-prepare-1", desk.namespace)
        assert "ownerReferences" not in foreign["metadata"]
        assert foreign["spec"]["template"]["spec"]["containers"][0]["name"] == "main"
        desk.api.delete("Job", "taken-r1-prepare-1", desk.namespace, propagationPolicy="Background")
        job = wait_until(lambda: self.own(desk, "taken-r1-prepare-1"), "its own Job is there")
        desk.kubelet.succeed(job)
        desk.child("train", name="taken")

    def test_does_not_take_the_child_of_a_deleted_job_of_the_same_name_for_its_own(
        self, office: tuple[Desk, Operator]
    ) -> None:
        desk, _ = office
        desk.apply("again")
        old = desk.child("prepare", name="again")
        desk.api.delete("FineTuneJob", "again", desk.namespace)
        uid = desk.apply("again")["metadata"]["uid"]
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it waits", "again")
        assert "that is not this job's" in condition(status, "DataPrepared")["message"]
        # The garbage collector, which is not here, does that a little later.
        desk.api.delete("Job", old["metadata"]["name"], desk.namespace, propagationPolicy="Background")
        job = wait_until(lambda: self.own(desk, old["metadata"]["name"]), "its own Job is there")
        assert job["metadata"]["ownerReferences"][0]["uid"] == uid

    @staticmethod
    def own(desk: Desk, name: str) -> Job | None:
        found = desk.api.find("Job", name, desk.namespace)
        return found if found and found["metadata"].get("ownerReferences") else None

    def test_is_told_of_the_service_whose_name_is_taken(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        metadata = {"name": "served-workers", "namespace": desk.namespace}
        desk.api.create(
            "Service", {"metadata": metadata, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
        )
        desk.apply("served", distributed={"workers": 2, "gpusPerWorker": 0})
        desk.kubelet.succeed(desk.child("prepare", name="served"))
        status = desk.until(lambda status: stage(status, "train").get("waitingFor"), "it waits", "served")
        told = condition(status, "Trained")["message"]
        assert "Service served-workers" in told
        assert "Job served-r1-train-1 is there" not in told

    def test_gets_a_service_that_somebody_deleted_with_the_next_attempt(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("robbed", distributed={"workers": 2, "gpusPerWorker": 0})
        train = desk.run_to("train", "robbed")
        desk.api.delete("Service", "robbed-workers", desk.namespace)
        desk.kubelet.break_(train, Reason.UNAVAILABLE.exit_code)
        desk.child("train", attempt=2, name="robbed")
        assert desk.api.find("Service", "robbed-workers", desk.namespace)
