"""The cause of a pending run: the most severe one, and none while the run is starting."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_core.runs import PendingCause
from finetune_operator.observation.pending import WarningEvent, is_incomplete, pending_cause_of, rejection_of
from tests.kube_objects import a_child, a_pod, job_of, pod_of, running, true, waiting

UNSCHEDULED = {"conditions": [true("PodScheduled", "Unschedulable", "0/3 nodes are available", "False")]}
SUSPENDED = a_child(spec={"suspend": True}, conditions=[true("Suspended", "JobSuspended")])


def pending_cause(
    *pods: dict[str, Any], warnings: tuple[WarningEvent, ...] = (), job: dict[str, Any] | None = None
) -> PendingCause | None:
    return pending_cause_of(job_of(job or a_child()), [pod_of(pod) for pod in pods], warnings)


def test_starting_run_has_no_cause() -> None:
    assert pending_cause() is None
    assert pending_cause(a_pod(a_child())) is None
    assert pending_cause(a_pod(a_child(), **waiting("ContainerCreating"))) is None
    assert pending_cause(a_pod(a_child(), **waiting("PodInitializing"))) is None


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"])
def test_image_that_cannot_be_pulled_is_named(reason: str) -> None:
    found = pending_cause(a_pod(a_child(), **waiting(reason, "not\n  found")))
    assert found is not None
    assert found.reason is Reason.IMAGE_UNAVAILABLE
    assert found.message.startswith(
        "The image finetune-trainer:test of pod intents-r1-train-1-0-abcde cannot be pulled"
    )
    assert f"({reason}): not found. Check" in found.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_container_that_cannot_be_set_up(reason: str) -> None:
    found = pending_cause(a_pod(a_child(), **waiting(reason, 'secret "s3" not found')))
    assert found is not None
    assert found.reason is Reason.SETUP_FAILED
    assert 'secret "s3" not found. Create the missing object' in found.message


def test_secret_read_timeout_of_the_kubelet_suggests_no_change() -> None:
    late = "failed to sync secret cache: timed out waiting for the condition"
    found = pending_cause(a_pod(a_child(), **waiting("CreateContainerConfigError", late)))
    assert found is not None
    assert found.message.endswith(f"{late}. The kubelet retries.")


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"])
def test_pod_that_cannot_be_set_up(reason: str) -> None:
    found = pending_cause(a_pod(a_child()), warnings=(WarningEvent(reason, "timed out"),))
    assert found is not None
    assert (found.reason, "timed out." in found.message) == (Reason.SETUP_FAILED, True)


def test_pods_that_cannot_be_created() -> None:
    found = pending_cause(warnings=(WarningEvent("FailedCreate", "exceeded quota: gpus"),))
    assert found is not None
    assert found.reason is Reason.QUOTA_EXCEEDED


def test_pods_that_were_created_after_all() -> None:
    assert pending_cause(a_pod(a_child()), warnings=(WarningEvent("FailedCreate", "exceeded quota: gpus"),)) is None


def test_unschedulable_pod() -> None:
    found = pending_cause(a_pod(a_child(), **UNSCHEDULED))
    assert found is not None
    assert found.reason is Reason.UNSCHEDULABLE
    assert "0/3 nodes are available. It starts when one fits." in found.message


def test_scheduling_gate_is_no_cause() -> None:
    gated = {"conditions": [true("PodScheduled", "SchedulingGated", "", "False")]}
    assert pending_cause(a_pod(a_child(), **gated)) is None


def test_job_suspended_by_a_queue() -> None:
    found = pending_cause(job=SUSPENDED)
    assert found is not None
    assert found.reason is Reason.UNSCHEDULABLE
    assert "is suspended by a queue or a person" in found.message


def test_most_severe_cause_wins() -> None:
    child = a_child(workers=3)
    pods = [
        a_pod(child, 0, **UNSCHEDULED),
        a_pod(child, 1, **waiting("ContainerCreating")),
        a_pod(child, 2, **waiting("ErrImagePull")),
    ]
    found = pending_cause(*pods, warnings=(WarningEvent("FailedMount", "timed out"),), job=child)
    assert found is not None
    assert found.reason is Reason.IMAGE_UNAVAILABLE


@pytest.mark.parametrize(
    ("message", "reason", "sentence"),
    [
        (
            "exceeded quota: gpus",
            Reason.QUOTA_EXCEEDED,
            "The quota of the namespace does not allow Job x: exceeded quota: gpus.",
        ),
        (
            'violates PodSecurity "restricted:latest"',
            Reason.FORBIDDEN,
            'The Pod Security level of the namespace does not allow Job x: violates PodSecurity "restricted:latest". '
            "Contact the cluster administrator.",
        ),
        ("no such user", Reason.FORBIDDEN, "The API server rejected Job x: no such user."),
    ],
)
def test_rejection_message_for_each_kind_of_rejection(message: str, reason: Reason, sentence: str) -> None:
    assert rejection_of("Job x", message, 1) == PendingCause(reason, sentence)


def test_long_message_is_clipped() -> None:
    sentence = rejection_of("Job x", "a" * 10_000, 1).message
    assert len(sentence) < 800
    assert sentence.endswith("…")


FULL = WarningEvent("FailedCreate", "exceeded quota: team, requested: pods=1, used: pods=2, limited: pods=2")


def incomplete(*pods: dict[str, Any], workers: int = 2, warnings: tuple[WarningEvent, ...] = (), **job: Any) -> bool:
    child, parsed = job_of(a_child(workers=workers, **job)), [pod_of(pod) for pod in pods]
    return is_incomplete(child, parsed, pending_cause_of(child, parsed, warnings))


def unscheduled(index: int) -> dict[str, Any]:
    pod = a_pod(a_child(workers=2), index, **UNSCHEDULED)
    return {**pod, "spec": {**pod["spec"], "nodeName": ""}}


class TestIncompleteGang:
    def test_holds_a_node_while_another_worker_has_none(self) -> None:
        assert incomplete(a_pod(a_child(), 0, **running()), unscheduled(1))

    def test_holds_quota_while_another_worker_has_none(self) -> None:
        assert incomplete(unscheduled(0), warnings=(FULL,))

    def test_is_not_one_that_waits_as_a_whole(self) -> None:
        assert not incomplete(unscheduled(0), unscheduled(1))
        assert not incomplete(warnings=(FULL,))

    def test_is_not_one_whose_workers_only_start(self) -> None:
        assert not incomplete(a_pod(a_child(), 0, **running()), a_pod(a_child(), 1, **waiting("ContainerCreating")))

    def test_is_not_one_that_a_queue_holds(self) -> None:
        pods = (a_pod(a_child(), 0, **running()), unscheduled(1))
        assert not incomplete(*pods, spec={"suspend": True}, conditions=[true("Suspended", "JobSuspended")])

    def test_has_several_workers(self) -> None:
        assert not incomplete(unscheduled(0), workers=1)
