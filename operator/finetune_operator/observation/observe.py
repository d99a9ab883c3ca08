"""A Job and its pods as one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_core.runs import Heard, ObservedRun, RunState
from finetune_kube.objects import JobFacts, PodFacts
from finetune_operator.observation.ends import first_cause, left_behind, report_of
from finetune_operator.observation.troubles import Notice, trouble_of

_LOST_AFTER = timedelta(minutes=1)
"""A pod that should be gone since then is on a node that nobody hears of."""


def observed_run(
    job: JobFacts, pods: Sequence[PodFacts], notices: Sequence[Notice], heard: Heard, now: datetime
) -> ObservedRun:
    """The run that ``job`` is."""
    pods = [pod for pod in pods if job.has(pod)]
    run = ObservedRun(
        job.run,
        RunState.PENDING,
        job.spec_digest,
        started_at=_started(pods),
        progress=heard.progress,
        asked_since=heard.asked_since,
    )
    lost = [pod for pod in pods if not pod.finished and _is_lost(pod, now)]
    living = [pod for pod in pods if not pod.finished and pod not in lost]
    # A Job that is being ended tells how by itself, unless a queue holds it, and then it never began, or a pod of it is
    # on a lost node, whose end nobody will tell.
    held = job.stopped and job.suspended
    succeeded = job.complete is not None or _all_succeeded(job, pods)
    over = succeeded or job.failed or ((held or lost or job.deleting) and not living)
    if not over or living:
        computing = [pod for pod in living if pod.phase == "Running" and pod.started_at]
        if (computing and len(computing) == len(living) and len(pods) >= job.workers) or (job.stopped and living):
            return replace(run, state=RunState.RUNNING)
        return replace(run, trouble=None if over else trouble_of(job, pods, notices))
    ended_at = max((pod.ended.finished_at for pod in pods if pod.ended and pod.ended.finished_at), default=None)
    said = job.complete or job.failed
    run = replace(run, finished_at=ended_at or (said.since if said else None))
    if succeeded:
        report = next((report_of(pod) for pod in sorted(pods, key=lambda pod: pod.index) if pod.index == 0), None)
        return replace(run, state=RunState.SUCCEEDED, exit_code=0, report=report)
    return _failed(run, job, pods, lost)


def _failed(run: ObservedRun, job: JobFacts, pods: list[PodFacts], lost: list[PodFacts]) -> ObservedRun:
    """``run`` at its end; every one of ``pods`` has ended, or is ``lost``."""
    # The operator ends a run through its Job's deadline: what that kills is no failure of the run.
    asked = job.stopped or job.deleting
    unseen = bool(lost) or job.ended_pods > len(pods)
    end = first_cause([pod for pod in pods if pod not in lost], asked, unseen)
    if lost and (end is None or end.disrupted):
        return replace(run, state=RunState.FAILED, error=left_behind(lost[0]), disrupted=True)
    if end is None:
        return replace(run, state=RunState.STOPPED if asked else RunState.FAILED)
    run = replace(
        run, exit_code=end.exit_code, report=end.report, error=end.error, disrupted=end.disrupted and not asked
    )
    if asked and end.report is None:
        return replace(run, state=RunState.STOPPED, error=None)
    return replace(run, state=RunState.FAILED)


def _all_succeeded(job: JobFacts, pods: Sequence[PodFacts]) -> bool:
    """Whether every worker has done its work: the Job controller says so of the Job a second later."""
    return {pod.index for pod in pods if pod.phase == "Succeeded"} >= set(range(job.workers))


def _started(pods: Sequence[PodFacts]) -> datetime | None:
    return max((pod.started_at for pod in pods if pod.started_at), default=None)


def _is_lost(pod: PodFacts, now: datetime) -> bool:
    return pod.delete_by is not None and now > pod.delete_by + _LOST_AFTER
