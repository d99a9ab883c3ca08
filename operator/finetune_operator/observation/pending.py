"""Why a run that was started is still Pending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.failures import Reason
from finetune_core.runs import PendingCause
from finetune_core.sentences import clipped, one_line, sentence
from finetune_kube.errors import without_documents
from finetune_kube.objects import ChildJob, ChildPod
from finetune_operator.observation.quota import never_fits

_MAX_QUOTE_LENGTH = 700

_IMAGE_REASONS = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
_READ_TIMEOUT = "timed out waiting for the condition"
"""In the message of a kubelet that could not read a Secret or a ConfigMap in time, whether it exists or not.

Source: pkg/kubelet/util/manager/watch_based_manager.go.
"""
_CONTAINER_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ContainerCannotRun")
SETUP_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
CREATE_EVENT = "FailedCreate"


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A Warning Event about a Job or a pod."""

    reason: str
    message: str


def pending_cause_of(job: ChildJob, pods: Sequence[ChildPod], warnings: Sequence[WarningEvent]) -> PendingCause | None:
    """The most severe cause; None if the pods are just starting."""
    for pod in pods:
        if pod.waiting and (found := _of_container(pod)):
            return found
    for warning in warnings:
        if warning.reason in SETUP_EVENTS:
            return PendingCause(
                Reason.SETUP_FAILED,
                f"A pod of Job {job.key[1]} cannot be set up: {quoted(warning.message)}",
            )
        if warning.reason == CREATE_EVENT and len(pods) < job.workers:
            return rejection_of(f"the pods of Job {job.key[1]}", warning.message, job.workers)
    for pod in pods:
        if pod.not_scheduled and pod.not_scheduled.reason == "Unschedulable":
            return PendingCause(
                Reason.UNSCHEDULABLE,
                f"Pod {pod.key[1]} does not fit any node: {quoted(pod.not_scheduled.message)} It starts when one fits.",
            )
    if job.suspended:
        return PendingCause(
            Reason.UNSCHEDULABLE,
            f"Job {job.key[1]} is suspended by a queue or a person; it starts when it is resumed.",
        )
    return None


def rejection_of(what: str, message: str, workers: int) -> PendingCause:
    """Why the API server refuses to create objects (``the pods of Job x``) of a run with ``workers`` pods."""
    if "exceeded quota" in message:
        hopeless = never_fits(message, workers)
        text = f"The quota of the namespace does not allow {what}: {quoted(message)}"
        return PendingCause(Reason.QUOTA_EXCEEDED, f"{text} {hopeless}" if hopeless else text, bool(hopeless))
    if "violates PodSecurity" in message:
        return PendingCause(
            Reason.FORBIDDEN,
            f"The Pod Security level of the namespace does not allow {what}: {quoted(message)} Contact the cluster "
            "administrator.",
        )
    return PendingCause(Reason.FORBIDDEN, f"The API server rejected {what}: {quoted(message)}")


def is_incomplete(job: ChildJob, pods: Sequence[ChildPod], cause: PendingCause | None) -> bool:
    """Whether some workers of a gang hold nodes or quota, and wait for others that do not get any."""
    if job.workers == 1 or job.suspended or cause is None:
        return False
    alive = [pod for pod in pods if not pod.finished]
    if cause.reason is Reason.QUOTA_EXCEEDED:
        return bool(alive)
    return cause.reason is Reason.UNSCHEDULABLE and any(pod.node for pod in alive)


def _of_container(pod: ChildPod) -> PendingCause | None:
    waiting = pod.waiting
    if waiting is None:
        return None
    if waiting.reason in _IMAGE_REASONS:
        return PendingCause(
            Reason.IMAGE_UNAVAILABLE,
            f"The image {pod.image} of pod {pod.key[1]} cannot be pulled ({waiting.reason}): "
            f"{quoted(waiting.message)} Check trainer.image and trainer.imagePullSecrets of the operator.",
        )
    if waiting.reason in _CONTAINER_REASONS:
        remedy = "Create the missing object, or correct its name in the job."
        if _READ_TIMEOUT in waiting.message:
            remedy = "The kubelet retries."
        return PendingCause(
            Reason.SETUP_FAILED,
            f"The container of pod {pod.key[1]} cannot be set up ({waiting.reason}): {quoted(waiting.message)} "
            f"{remedy}",
        )
    return None


def quoted(text: str) -> str:
    """``text`` on one line as a sentence, without long documents, clipped if it is too long."""
    return sentence(clipped(one_line(without_documents(text)), _MAX_QUOTE_LENGTH))
