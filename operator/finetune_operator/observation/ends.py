"""How a run ended: among the pods of a gang, the one whose end caused the others to end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import StageError, StageReport
from finetune_core.sentences import clipped, one_line, sentence
from finetune_kube.objects import ChildPod

_MAX_REPORT_LENGTH = 16384
"""Characters of a termination message that are parsed; the kubelet keeps 4096 bytes."""

_MAX_QUOTE_LENGTH = 500

_POD_DISK_LIMIT = re.compile(
    r"ephemeral local storage usage exceeds|Usage of EmptyDir volume|exceeded its local ephemeral storage limit"
)
"""Matches the kubelet's eviction message if the pod exceeded its own limit, not if the node's disk was full.

Source: pkg/kubelet/eviction/helpers.go.
"""

_NODE_REASONS = ("Evicted", "Preempting", "NodeLost", "Shutdown", "Terminated", "NodeShutdown")
"""Reasons of a failed pod that ended because of its node."""

_UNKNOWN_EXIT_REASONS = ("Unknown", "ContainerStatusUnknown")
"""Reasons of a container whose exit was not recorded: its node was rebooted, or its runtime lost it.

Source: containerd's internal/cri/server (unknownExitReason) and pkg/kubelet/kubelet_pods.go.
"""

_KILLED, _TERMINATED = 137, 143
_MAY_BE_CONSEQUENCE = 3
"""From this priority on, the end of another pod may have caused the end of this one."""
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PodEnd:
    """How one pod ended."""

    pod: ChildPod
    exit_code: int | None = None
    report: StageReport | None = None
    error: StageError | None = None
    disrupted: bool = False

    @property
    def at(self) -> datetime:
        """When the container terminated; the greatest time if that is unknown."""
        known = self.pod.terminated.finished_at if self.pod.terminated else None
        return known or _NEVER


def report_of(pod: ChildPod) -> StageReport | None:
    """The StageReport in the termination message of a pod, if there is a valid one."""
    message = pod.terminated.message if pod.terminated else ""
    if not message.startswith("{") or len(message) > _MAX_REPORT_LENGTH:
        return None
    try:
        return StageReport.model_validate_json(message)
    except (ValidationError, RecursionError):
        return None


def root_cause(
    pods: list[ChildPod],
    *,
    stop_requested: bool = False,
    missed_pods: bool = False,
    failing_since: datetime | None = None,
) -> PodEnd | None:
    """The end that caused the other pods of a gang to end; None if no pod failed.

    When one pod ends, the others lose their connection to it or are deleted by the Job controller, and may be observed
    first.

    Args:
        pods: Pods that have ended.
        stop_requested: The operator stopped the run, and so its pods.
        missed_pods: A pod ended and was removed before it was observed, for example with the operator's own node. An
            end that may be a consequence of that counts as a disruption.
        failing_since: When the Job controller found that a pod had failed, and began to delete the others.
    """
    failed = [end for end in map(_end, pods) if end.exit_code != ExitCode.DONE]
    if not stop_requested:
        failed = _with_deletions(failed, failing_since or _NEVER)
    cause = min(failed, key=lambda end: (_priority(end), end.at, end.pod.index), default=None)
    if cause and missed_pods and _priority(cause) >= _MAY_BE_CONSEQUENCE:
        return replace(cause, disrupted=True)
    return cause


def nodes_without_gpus(pods: Iterable[ChildPod]) -> list[str]:
    """The nodes on which a stage did not find the GPUs that its pod requested."""
    errors = ((pod.node, report.error) for pod in pods if (report := report_of(pod)))
    return sorted({node for node, error in errors if error and error.reason is Reason.GPU_UNAVAILABLE})


def lost_pod_error(pod: ChildPod) -> StageError:
    """The error of a pod that still exists after its deletion deadline, on a node that does not respond."""
    return _error(Reason.STOPPED, f"Worker {pod.index} is on node {pod.node}, which does not respond", None)


def _with_deletions(ends: list[PodEnd], failing_since: datetime) -> list[PodEnd]:
    """``ends``, with those pods marked as disrupted that were deleted from outside.

    The Job controller deletes pods only after one has failed, so an earlier deletion came from outside. Both times are
    those of the control plane; the clock of a node may differ.
    """
    return [
        _deleted(end) if end.pod.deletion_requested_at and end.pod.deletion_requested_at < failing_since else end
        for end in ends
    ]


def _deleted(end: PodEnd) -> PodEnd:
    if end.disrupted or not _was_stopped(end):
        return end
    error = None if end.report else _error(Reason.STOPPED, f"Worker {end.pod.index} was deleted", end.exit_code)
    return replace(end, error=error, disrupted=True)


def _was_stopped(end: PodEnd) -> bool:
    """Whether the pod ended as after SIGTERM or, after its grace period, SIGKILL."""
    if end.report and end.report.error:
        return end.report.error.reason is Reason.STOPPED
    return end.exit_code in (None, _KILLED, _TERMINATED) and not _is_oom_killed(end.pod)


def _priority(end: PodEnd) -> int:
    """The end with the lowest priority is the cause of the others."""
    if end.disrupted:
        return 0
    if end.pod.deletion_requested_at and _was_stopped(end):
        return 4
    error = end.error or (end.report.error if end.report else None)
    reason = error.reason if error else None
    if _is_oom_killed(end.pod):
        return 1
    if reason is Reason.STOPPED or (reason is None and end.exit_code == _TERMINATED):
        return 4
    if reason in (Reason.INTERNAL_ERROR, Reason.UNAVAILABLE, None):
        # Typical of a lost connection to another rank. A crash gives the same, but then no pod has a lower priority.
        return _MAY_BE_CONSEQUENCE if end.exit_code != _KILLED else 1
    return 2


def _end(pod: ChildPod) -> PodEnd:
    code = pod.terminated.exit_code if pod.terminated else None
    report = report_of(pod)
    who = f"Worker {pod.index}"
    if pod.failure.reason == "Evicted" and _POD_DISK_LIMIT.search(pod.failure.message):
        return PodEnd(
            pod, code, error=_error(Reason.DISK_FULL, f"{who} was evicted: {_quoted(pod.failure.message)}", code)
        )
    if why := _disruption(pod):
        stopped = report if report and report.error and report.error.reason is Reason.STOPPED else None
        error = None if stopped else _error(Reason.STOPPED, f"{who} was disrupted: {why}", code)
        return PodEnd(pod, code, report=stopped, error=error, disrupted=True)
    if _is_oom_killed(pod):
        return _out_of_memory(pod, code, report)
    if pod.failure.reason and pod.terminated is None:
        why = _quoted(pod.failure.message or pod.failure.reason)
        message = f"{who} was rejected by its node ({pod.failure.reason}): {why}"
        return PodEnd(pod, code, error=_error(Reason.KILLED, message, code))
    if report is None and pod.terminated and code not in (ExitCode.DONE, None):
        return PodEnd(pod, code, error=_crash_error(pod, pod.terminated.exit_code, pod.terminated.message))
    return PodEnd(pod, code, report=_with_node(report, pod) if report else None)


def _with_node(report: StageReport, pod: ChildPod) -> StageReport:
    """``report``; if GPUs are missing, its message names the node, which the stage does not know."""
    error = report.error
    if error is None or error.reason is not Reason.GPU_UNAVAILABLE:
        return report
    message = f"{error.message} (worker {pod.index}, on node {pod.node})"
    return report.model_copy(update={"error": error.model_copy(update={"message": message})})


def _disruption(pod: ChildPod) -> str:
    """Why a pod was ended from outside; empty if it ended by itself."""
    if pod.disruption or pod.failure.reason in _NODE_REASONS:
        detail = pod.disruption or pod.failure
        return _quoted(detail.message or detail.reason)
    if pod.terminated and pod.terminated.reason in _UNKNOWN_EXIT_REASONS:
        return "its node was rebooted or its container runtime lost the container, so its exit code is unknown"
    return ""


def _is_oom_killed(pod: ChildPod) -> bool:
    return pod.terminated is not None and pod.terminated.reason == "OOMKilled"


def _out_of_memory(pod: ChildPod, code: int | None, report: StageReport | None) -> PodEnd:
    if report and report.error and report.error.reason is Reason.OUT_OF_MEMORY:
        return PodEnd(pod, code, report=report)  # Only one process was killed; another one reported the details.
    limit = f"its limit of {pod.memory_limit}, its peak use" if pod.memory_limit else "the memory of its node"
    message = (
        f"Worker {pod.index} was killed because it needed more memory than {limit}: raise the limit, or lower "
        "training.maxBatchSizePerDevice or training.maxSequenceLength"
    )
    return PodEnd(pod, code, error=_error(Reason.OUT_OF_MEMORY, message, code))


def _crash_error(pod: ChildPod, code: int, message: str) -> StageError | None:
    """The error of a container that left no report, such as one with another image: the last line of its log."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines or code > 128 or code in set(ExitCode):
        return None
    last = f"Worker {pod.index} ended with exit code {code}; last log line: {_quoted(lines[-1])}"
    return _error(Reason.INTERNAL_ERROR, last, code)


def _error(reason: Reason, message: str, code: int | None) -> StageError:
    return StageError(
        reason=reason,
        message=sentence(message),
        exit_code=min(abs(code), 255) if code else ExitCode.INTERNAL,
    )


def _quoted(text: str) -> str:
    return clipped(one_line(text), _MAX_QUOTE_LENGTH)
