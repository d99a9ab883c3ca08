"""Why a run that was started does not compute yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.failures import Reason
from finetune_core.runs import Trouble
from finetune_core.sentences import clipped, one_line, sentence
from finetune_kube.objects import JobFacts, PodFacts

_LONGEST_QUOTE = 700

_IMAGE = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
_NOT_READ = "timed out waiting for the condition"
"""Said by a kubelet that could not read a Secret or a ConfigMap in time, whether it is there or not.

Source: pkg/kubelet/util/manager/watch_based_manager.go.
"""
_SETUP = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ContainerCannotRun")
SETUP_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
CREATE_EVENT = "FailedCreate"


@dataclass(frozen=True, slots=True)
class Notice:
    """A Warning event about a Job or a pod."""

    reason: str
    message: str


def trouble_of(job: JobFacts, pods: Sequence[PodFacts], notices: Sequence[Notice]) -> Trouble | None:
    """What keeps a run from computing, the gravest first; None when it is just starting."""
    for pod in pods:
        if pod.waiting and (found := _of_container(job, pod)):
            return found
    for notice in notices:
        if notice.reason in SETUP_EVENTS:
            return Trouble(
                Reason.SETUP_FAILED,
                f"A pod of Job {job.key[1]} cannot be set up: {quoted(notice.message)}",
                job.created_at,
            )
        if notice.reason == CREATE_EVENT and len(pods) < job.workers:
            return refused(job.key[1], notice.message, job)
    for pod in pods:
        if pod.unscheduled and pod.unscheduled.reason == "Unschedulable":
            said = pod.unscheduled
            return Trouble(
                Reason.UNSCHEDULABLE,
                f"No node takes pod {pod.key[1]}: {quoted(said.message)} It starts when one does.",
                said.since or pod.created_at,
            )
    if job.suspended:
        return Trouble(
            Reason.UNSCHEDULABLE,
            f"Job {job.key[1]} is suspended, by a queue or by hand; it starts when that ends.",
            job.suspended.since or job.created_at,
        )
    return None


def refused(name: str, message: str, job: JobFacts) -> Trouble:
    """The trouble of a Job whose pods are refused by the API server, with what that says."""
    reason, sentence = why_refused(f"the pods of Job {name}", message)
    return Trouble(reason, sentence, job.created_at)


def why_refused(what: str, message: str) -> tuple[Reason, str]:
    """The reason and the sentence for what the API server refuses to create."""
    if "exceeded quota" in message:
        return Reason.QUOTA_EXCEEDED, f"The namespace's quota has no room for {what}: {quoted(message)}"
    if "violates PodSecurity" in message:
        return (
            Reason.FORBIDDEN,
            f"The namespace's pod security denies {what}: {quoted(message)} Ask who runs the cluster.",
        )
    return Reason.FORBIDDEN, f"The API server refuses {what}: {quoted(message)}"


def _of_container(job: JobFacts, pod: PodFacts) -> Trouble | None:
    said = pod.waiting
    if said is None:
        return None
    if said.reason in _IMAGE:
        return Trouble(
            Reason.IMAGE_UNAVAILABLE,
            f"The image {pod.image} of pod {pod.key[1]} cannot be had ({said.reason}): {quoted(said.message)} Check "
            "trainer.image and trainer.imagePullSecrets of the operator.",
            job.created_at,
        )
    if said.reason in _SETUP:
        remedy = "Create what is missing, or correct its name in the job."
        if _NOT_READ in said.message:
            remedy = "Its node tries again."
        return Trouble(
            Reason.SETUP_FAILED,
            f"The container of pod {pod.key[1]} cannot be set up ({said.reason}): {quoted(said.message)} {remedy}",
            job.created_at,
        )
    return None


def quoted(text: str) -> str:
    """``text`` as a sentence within another, cut where it is too long."""
    return sentence(clipped(one_line(text), _LONGEST_QUOTE))
