"""Why a run does not compute yet: the gravest reason, and no reason while it is just starting."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_core.runs import Trouble
from finetune_operator.observation.troubles import Notice, trouble_of, why_refused
from tests.builders import NOON
from tests.kube_objects import a_child, a_pod, job_of, pod_of, true, waiting

UNSCHEDULED = {"conditions": [true("PodScheduled", "Unschedulable", "0/3 nodes are available", "False")]}
SUSPENDED = a_child(spec={"suspend": True}, conditions=[true("Suspended", "JobSuspended")])


def trouble(
    *pods: dict[str, Any], notices: tuple[Notice, ...] = (), job: dict[str, Any] | None = None
) -> Trouble | None:
    return trouble_of(job_of(job or a_child()), [pod_of(pod) for pod in pods], notices)


def test_a_run_that_is_starting_has_none() -> None:
    assert trouble() is None
    assert trouble(a_pod(a_child())) is None
    assert trouble(a_pod(a_child(), **waiting("ContainerCreating"))) is None
    assert trouble(a_pod(a_child(), **waiting("PodInitializing"))) is None


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_cannot_be_had_is_named(reason: str) -> None:
    found = trouble(a_pod(a_child(), **waiting(reason, "not\n  found")))
    assert found is not None
    assert (found.reason, found.since) == (Reason.IMAGE_UNAVAILABLE, NOON)
    assert found.message.startswith("The image finetune-trainer:test of pod intents-r1-train-1-0-abcde cannot be had")
    assert f"({reason}): not found. Check" in found.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_cannot_be_set_up(reason: str) -> None:
    found = trouble(a_pod(a_child(), **waiting(reason, 'secret "s3" not found')))
    assert found is not None
    assert found.reason is Reason.SETUP_FAILED
    assert 'secret "s3" not found. Create what is missing' in found.message


def test_a_container_whose_node_could_not_read_a_secret_in_time_blames_nobody() -> None:
    late = "failed to sync secret cache: timed out waiting for the condition"
    found = trouble(a_pod(a_child(), **waiting("CreateContainerConfigError", late)))
    assert found is not None
    assert found.message.endswith(f"{late}. Its node tries again.")


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"])
def test_a_pod_that_cannot_be_set_up(reason: str) -> None:
    found = trouble(a_pod(a_child()), notices=(Notice(reason, "timed out"),))
    assert found is not None
    assert (found.reason, "timed out." in found.message) == (Reason.SETUP_FAILED, True)


def test_pods_that_cannot_be_created() -> None:
    found = trouble(notices=(Notice("FailedCreate", "exceeded quota: gpus"),))
    assert found is not None
    assert found.reason is Reason.QUOTA_EXCEEDED


def test_pods_that_were_created_after_all() -> None:
    assert trouble(a_pod(a_child()), notices=(Notice("FailedCreate", "exceeded quota: gpus"),)) is None


def test_a_pod_that_no_node_takes() -> None:
    found = trouble(a_pod(a_child(), **UNSCHEDULED))
    assert found is not None
    assert found.reason is Reason.UNSCHEDULABLE
    assert "0/3 nodes are available. It starts when one does." in found.message


def test_a_scheduling_gate_is_no_trouble() -> None:
    gated = {"conditions": [true("PodScheduled", "SchedulingGated", "", "False")]}
    assert trouble(a_pod(a_child(), **gated)) is None


def test_a_queue_that_holds_the_job() -> None:
    found = trouble(job=SUSPENDED)
    assert found is not None
    assert found.reason is Reason.UNSCHEDULABLE
    assert "is suspended, by a queue or by hand" in found.message


def test_the_gravest_is_told() -> None:
    child = a_child(workers=3)
    pods = [
        a_pod(child, 0, **UNSCHEDULED),
        a_pod(child, 1, **waiting("ContainerCreating")),
        a_pod(child, 2, **waiting("ErrImagePull")),
    ]
    found = trouble(*pods, notices=(Notice("FailedMount", "timed out"),), job=child)
    assert found is not None
    assert found.reason is Reason.IMAGE_UNAVAILABLE


@pytest.mark.parametrize(
    ("message", "reason", "sentence"),
    [
        (
            "exceeded quota: gpus",
            Reason.QUOTA_EXCEEDED,
            "The namespace's quota has no room for Job x: exceeded quota: gpus.",
        ),
        (
            'violates PodSecurity "restricted:latest"',
            Reason.FORBIDDEN,
            'The namespace\'s pod security denies Job x: violates PodSecurity "restricted:latest". Ask who runs the '
            "cluster.",
        ),
        ("no such user", Reason.FORBIDDEN, "The API server refuses Job x: no such user."),
    ],
)
def test_a_refusal_in_words(message: str, reason: Reason, sentence: str) -> None:
    assert why_refused("Job x", message) == (reason, sentence)


def test_a_long_message_is_cut() -> None:
    _, sentence = why_refused("Job x", "a" * 10_000)
    assert len(sentence) < 800
    assert sentence.endswith("…")
