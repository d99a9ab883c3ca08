"""How a run ended: of all pods of a gang, the one whose end was the cause of the others'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import ValidationError

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import StageError, StageReport
from finetune_core.sentences import clipped, one_line, sentence
from finetune_kube.objects import PodFacts

_LONGEST_REPORT = 16384
"""Characters of a termination message that are read; the kubelet keeps 4096 bytes."""

_LONGEST_QUOTE = 500

_OWN_DISK = re.compile(
    r"ephemeral local storage usage exceeds|Usage of EmptyDir volume|exceeded its local ephemeral storage limit"
)
"""In the kubelet's message when it was not the node that was full, but the pod that used more than it may.

Source: pkg/kubelet/eviction/helpers.go.
"""

_NODE_GOES = ("Evicted", "Preempting", "NodeLost", "Shutdown", "Terminated", "NodeShutdown")
"""Reasons of a pod that ends for its node's sake."""

_NOBODY_SAW = ("Unknown", "ContainerStatusUnknown")
"""Reasons of a container that is gone without anybody knowing how: its node was rebooted, or its runtime lost it.

Source: containerd's internal/cri/server (unknownExitReason) and pkg/kubelet/kubelet_pods.go.
"""

_KILLED, _TERMINATED = 137, 143
_ECHO = 3
"""From this rank on, an end can be what another pod's end has caused."""
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PodEnd:
    """How one pod ended."""

    pod: PodFacts
    exit_code: int | None = None
    report: StageReport | None = None
    error: StageError | None = None
    disrupted: bool = False

    @property
    def at(self) -> datetime:
        """When, as far as it is known; the end of time where it is not."""
        known = self.pod.ended.finished_at if self.pod.ended else None
        return known or _NEVER


def report_of(pod: PodFacts) -> StageReport | None:
    """The StageReport that a pod left, if what it left is one."""
    message = pod.ended.message if pod.ended else ""
    if not message.startswith("{") or len(message) > _LONGEST_REPORT:
        return None
    try:
        return StageReport.model_validate_json(message)
    except (ValidationError, RecursionError):
        return None


def first_cause(pods: list[PodFacts], asked: bool = False, unseen: bool = False) -> PodEnd | None:
    """Of pods that are over, how the one ended whose end came before the others'; None when there is none to tell.

    When one pod goes, the others fail at their connection to it or are stopped by Kubernetes, and may be told of first.
    ``asked`` says that the run was to end, and its pods with it; ``unseen`` that a pod ended and was taken away before
    it could be seen, as when the operator was on the node that went: what can be the echo of that is no fault of the
    run.
    """
    failed = [end for end in map(_end, pods) if end.exit_code != ExitCode.DONE]
    if not asked:
        failed = _with_deletions(failed)
    cause = min(failed, key=lambda end: (_rank(end), end.at, end.pod.index), default=None)
    return replace(cause, disrupted=True) if cause and unseen and _rank(cause) >= _ECHO else cause


def nodes_without_gpus(pods: Iterable[PodFacts]) -> list[str]:
    """The nodes on which a stage did not find the GPUs that it was given."""
    errors = ((pod.node, report.error) for pod in pods if (report := report_of(pod)))
    return sorted({node for node, error in errors if error and error.reason is Reason.GPU_UNAVAILABLE})


def left_behind(pod: PodFacts) -> StageError:
    """What is said of a pod that should be gone and whose end nobody tells."""
    return _error(Reason.STOPPED, f"Worker {pod.index} is on a node that nobody hears of any more", None)


def _with_deletions(ends: list[PodEnd]) -> list[PodEnd]:
    """``ends``, of which those that somebody deleted are no fault of the run.

    When a pod fails, Kubernetes deletes the others of its Job; who deletes one by hand does so before any has failed.
    """
    first = min((end.at for end in ends if end.pod.delete_asked is None), default=_NEVER)
    return [_deleted(end) if end.pod.delete_asked and end.pod.delete_asked < first else end for end in ends]


def _deleted(end: PodEnd) -> PodEnd:
    if end.disrupted or not _only_ended(end):
        return end
    error = None if end.report else _error(Reason.STOPPED, f"Worker {end.pod.index} was deleted", end.exit_code)
    return replace(end, error=error, disrupted=True)


def _only_ended(end: PodEnd) -> bool:
    """Whether it ended as what is told to end does, in time or not."""
    if end.report and end.report.error:
        return end.report.error.reason is Reason.STOPPED
    return end.exit_code in (None, _KILLED, _TERMINATED) and not _killed_for_memory(end.pod)


def _rank(end: PodEnd) -> int:
    """Which of several ends is the cause: the lowest."""
    if end.disrupted:
        return 0
    if end.pod.delete_asked and _only_ended(end):
        return 4
    error = end.error or (end.report.error if end.report else None)
    reason = error.reason if error else None
    if _killed_for_memory(end.pod):
        return 1
    if reason is Reason.STOPPED or (reason is None and end.exit_code == _TERMINATED):
        return 4
    if reason in (Reason.INTERNAL_ERROR, Reason.UNAVAILABLE, None):
        # A broken connection looks like this; so does a crash, but then nothing else stands above it.
        return _ECHO if end.exit_code != _KILLED else 1
    return 2


def _end(pod: PodFacts) -> PodEnd:
    code = pod.ended.exit_code if pod.ended else None
    report = report_of(pod)
    who = f"Worker {pod.index}"
    if pod.failed.reason == "Evicted" and _OWN_DISK.search(pod.failed.message):
        return PodEnd(
            pod, code, error=_error(Reason.DISK_FULL, f"{who} was evicted: {_quoted(pod.failed.message)}", code)
        )
    if why := _why_taken(pod):
        stopped = report if report and report.error and report.error.reason is Reason.STOPPED else None
        error = None if stopped else _error(Reason.STOPPED, f"{who} was taken off its node: {why}", code)
        return PodEnd(pod, code, report=stopped, error=error, disrupted=True)
    if _killed_for_memory(pod):
        return _out_of_memory(pod, code, report)
    if pod.failed.reason and pod.ended is None:
        why = _quoted(pod.failed.message or pod.failed.reason)
        words = f"{who} was refused by its node ({pod.failed.reason}): {why}"
        return PodEnd(pod, code, error=_error(Reason.KILLED, words, code))
    if report is None and pod.ended and code not in (ExitCode.DONE, None):
        return PodEnd(pod, code, error=_with_last_words(pod, pod.ended.exit_code, pod.ended.message))
    return PodEnd(pod, code, report=_with_node(report, pod) if report else None)


def _with_node(report: StageReport, pod: PodFacts) -> StageReport:
    """``report``, and of missing GPUs also where they are missing, which the stage does not know."""
    error = report.error
    if error is None or error.reason is not Reason.GPU_UNAVAILABLE:
        return report
    where = f"{error.message} (worker {pod.index}, on node {pod.node})"
    return report.model_copy(update={"error": error.model_copy(update={"message": where})})


def _why_taken(pod: PodFacts) -> str:
    """Why a pod went that did not end by itself; empty where it did."""
    if pod.disrupted or pod.failed.reason in _NODE_GOES:
        said = pod.disrupted or pod.failed
        return _quoted(said.message or said.reason)
    if pod.ended and pod.ended.reason in _NOBODY_SAW:
        return "the node was rebooted, or lost it, so that nobody knows how it ended"
    return ""


def _killed_for_memory(pod: PodFacts) -> bool:
    return pod.ended is not None and pod.ended.reason == "OOMKilled"


def _out_of_memory(pod: PodFacts, code: int | None, report: StageReport | None) -> PodEnd:
    if report and report.error and report.error.reason is Reason.OUT_OF_MEMORY:
        return PodEnd(pod, code, report=report)  # Only one of its processes was killed, and another could measure.
    limit = f"its limit of {pod.memory_limit}, its peak use" if pod.memory_limit else "the memory of its node"
    words = (
        f"Worker {pod.index} was killed because it needed more memory than {limit}: raise the limit, or lower "
        "training.maxBatchSizePerDevice or training.maxSequenceLength"
    )
    return PodEnd(pod, code, error=_error(Reason.OUT_OF_MEMORY, words, code))


def _with_last_words(pod: PodFacts, code: int, message: str) -> StageError | None:
    """What a container said last that left no report, such as one whose image is not ours."""
    words = [line.strip() for line in message.splitlines() if line.strip()]
    if not words or code > 128 or code in set(ExitCode):
        return None
    last = f"Worker {pod.index} ended with exit code {code}; its last words: {_quoted(words[-1])}"
    return _error(Reason.INTERNAL_ERROR, last, code)


def _error(reason: Reason, words: str, code: int | None) -> StageError:
    return StageError(
        reason=reason,
        message=sentence(words),
        exit_code=min(abs(code), 255) if code else ExitCode.INTERNAL,
    )


def _quoted(text: str) -> str:
    return clipped(one_line(text), _LONGEST_QUOTE)
