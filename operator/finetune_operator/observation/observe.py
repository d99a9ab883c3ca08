"""Builds the observed run of a child Job and its pods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_core.runs import ObservedRun, PolledProgress, RunState
from finetune_kube.objects import ChildJob, ChildPod
from finetune_operator.observation.ends import lost_pod_error, report_of, root_cause
from finetune_operator.observation.pending import WarningEvent, is_incomplete, pending_cause_of

_LOST_AFTER = timedelta(minutes=1)
"""A pod that still exists so long after its deletion deadline is on a node that does not respond."""


def observed_run(
    job: ChildJob, pods: Sequence[ChildPod], warnings: Sequence[WarningEvent], polled: PolledProgress, now: datetime
) -> ObservedRun:
    """The run of ``job``."""
    pods = [pod for pod in pods if job.owns(pod)]
    run = ObservedRun(
        job.run,
        RunState.PENDING,
        job.spec_digest,
        started_at=_started(pods),
        progress=polled.progress,
        silent_since=polled.silent_since,
        answers=polled.answers,
        ready=any(pod.ready and not pod.finished for pod in pods if pod.index == 0),
    )
    lost = [pod for pod in pods if not pod.finished and _is_lost(pod, now)]
    alive = [pod for pod in pods if not pod.finished and pod not in lost]
    # The Job controller reports the end of a stopped Job, unless a queue keeps the Job suspended, so that it never
    # started, or a pod is on a lost node.
    stopped_while_suspended = job.stop_requested and job.suspended
    succeeded = job.complete is not None or _indexes(pods, code=0) >= set(range(job.workers))
    # The condition of the Job follows a second after its pods, and not before their sidecars end. If pods were deleted,
    # it tells who did so.
    all_ended = _indexes(pods) >= set(range(job.workers))
    was_deleted = job.stop_requested or any(pod.deletion_requested_at for pod in pods)
    failed = job.failed is not None or (all_ended and (job.failing is not None or not was_deleted))
    ended = succeeded or failed or ((stopped_while_suspended or lost or job.deleting) and not alive)
    if not ended or alive:
        run = _with_held_failure(run, job, pods)
        running = [pod for pod in alive if pod.phase == "Running" and pod.started_at]
        if (running and len(running) == len(alive) and len(pods) >= job.workers) or (job.stop_requested and alive):
            return replace(run, state=RunState.RUNNING)
        cause = None if ended else pending_cause_of(job, pods, warnings)
        return replace(run, pending_cause=cause, incomplete=is_incomplete(job, pods, cause))
    finished_at = max(
        (pod.terminated.finished_at for pod in pods if pod.terminated and pod.terminated.finished_at), default=None
    )
    condition = job.complete or job.failed
    run = replace(run, finished_at=finished_at or (condition.since if condition else None))
    if succeeded:
        report = next((report_of(pod) for pod in pods if pod.index == 0), None)
        return replace(run, state=RunState.SUCCEEDED, exit_code=0, report=report)
    return _failed(run, job, pods, lost)


def _failed(run: ObservedRun, job: ChildJob, pods: list[ChildPod], lost: list[ChildPod]) -> ObservedRun:
    """``run`` after its end. Each of ``pods`` has ended, or is ``lost``."""
    # The operator stops a run with the deadline of its Job; pods killed by that are not a failure of the run.
    stop_requested = job.stop_requested or job.deleting
    missed_pods = bool(lost) or job.finished_pods > len(pods)
    end = root_cause(
        [pod for pod in pods if pod not in lost],
        stop_requested=stop_requested,
        missed_pods=missed_pods,
        failing_since=job.failing.since if job.failing else None,
    )
    if lost and (end is None or end.disrupted):
        return replace(run, state=RunState.FAILED, error=lost_pod_error(lost[0]), disrupted=True)
    if end is None:
        return replace(run, state=RunState.STOPPED if stop_requested else RunState.FAILED)
    run = replace(
        run,
        exit_code=end.exit_code,
        report=end.report,
        error=end.error,
        disrupted=end.disrupted and not stop_requested,
    )
    if stop_requested and end.report is None:
        return replace(run, state=RunState.STOPPED, error=None)
    return replace(run, state=RunState.FAILED)


def _indexes(pods: Sequence[ChildPod], code: int | None = None) -> set[int]:
    """The indexes of the workers whose container has ended, with ``code`` if it is given."""
    return {pod.index for pod in pods if pod.terminated and (code is None or pod.terminated.exit_code == code)}


def _with_held_failure(run: ObservedRun, job: ChildJob, pods: Sequence[ChildPod]) -> ObservedRun:
    """``run`` with the failure of a worker whose sidecar runs on, so that the Job controller does not see it."""
    end = root_cause([pod for pod in pods if pod.lingers])
    if end is None or job.failing or job.stop_requested:
        return run
    return replace(run, failing=True, exit_code=end.exit_code, report=end.report, error=end.error)


def _started(pods: Sequence[ChildPod]) -> datetime | None:
    return max((pod.started_at for pod in pods if pod.started_at), default=None)


def _is_lost(pod: ChildPod, now: datetime) -> bool:
    return pod.deletion_deadline is not None and now > pod.deletion_deadline + _LOST_AFTER
