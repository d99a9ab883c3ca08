"""``finetune logs``: prints the logs of a job's pods."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_api.failures import ExitCode
from finetune_api.stage import STAGES, Stage
from finetune_cli.output import print_error
from finetune_cli.printable import printable
from finetune_cli.refusals import ClusterError
from finetune_cli.stored import has_finished, read
from finetune_core.names import ATTEMPT_LABEL, CONTAINER, JOB_LABEL, STAGE_LABEL
from finetune_kube.objects import ChildPod, parse_pod

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

_POLL_SECONDS = 2.0

_Order = tuple[int, int, int]
"""Revision, position of the stage, attempt."""


@dataclass(frozen=True)
class Wanted:
    """The run from the command line; None for the latest."""

    stage: Stage | None = None
    attempt: int | None = None
    worker: int = 0

    @property
    def is_one_run(self) -> bool:
        return self.stage is not None or self.attempt is not None


async def logs(cluster: Cluster, name: str, wanted: Wanted, follow: bool, tail: int | None) -> int:
    """Print the log of a run; returns the exit code."""
    last: _Order | None = None
    while True:
        job = read(await cluster.get(name))
        pods = await _pods(cluster, name, wanted)
        pod = chosen(pods, wanted.worker, last)
        if pod is None or not pod.has_started:
            finished = last is not None and (wanted.is_one_run or has_finished(job))
            if finished:
                return ExitCode.DONE
            if not follow or has_finished(job):
                print_error(f"finetune: {_why_none(pods, pod, name, str(job.status.phase), wanted)}")
                return ExitCode.NOT_FOUND
            await asyncio.sleep(_POLL_SECONDS)
            continue
        if last is not None or (follow and not wanted.is_one_run):
            print_error(f"==> {pod.run.stage}, attempt {pod.run.attempt}")
        try:
            await _print(cluster, pod, follow, tail if last is None else None)
        except ClusterError as error:
            # The pod may be deleted between two requests; continue with the next one.
            if not follow or error.code != 404:
                raise
        last = _order(pod)
        if not follow or wanted.is_one_run:
            return ExitCode.DONE


def chosen(pods: Iterable[ChildPod], worker: int, after: _Order | None = None) -> ChildPod | None:
    """The pod of the newest run, or of the first run after ``after``; None if there is none."""
    matching = [pod for pod in pods if pod.index == worker and (after is None or _order(pod) > after)]
    if not matching:
        return None
    return max(matching, key=_order) if after is None else min(matching, key=_order)


def _order(pod: ChildPod) -> _Order:
    """Greater for a later run."""
    return pod.run.revision, STAGES.index(pod.run.stage), pod.run.attempt


async def _pods(cluster: Cluster, name: str, wanted: Wanted) -> list[ChildPod]:
    labels = {JOB_LABEL: name}
    if wanted.stage:
        labels[STAGE_LABEL] = str(wanted.stage)
    if wanted.attempt:
        labels[ATTEMPT_LABEL] = str(wanted.attempt)
    return [pod for found in await cluster.pods(labels) if (pod := parse_pod(found))]


async def _print(cluster: Cluster, pod: ChildPod, follow: bool, tail: int | None) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        async for piece in cluster.log(pod.key[1], CONTAINER, follow, tail):
            sys.stdout.buffer.write(printable(decoder.decode(piece)).encode())
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader has closed the pipe; without this, the interpreter prints an error at exit.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise asyncio.CancelledError from None


def _why_none(pods: list[ChildPod], pod: ChildPod | None, name: str, phase: str, wanted: Wanted) -> str:
    if pod:
        return f"pod {pod.key[1]} has not started, so there is no log yet: {_why_not_started(pod)}"
    if pods:
        workers = sorted({one.index for one in pods})
        return f"there is no worker {wanted.worker}; the workers are {workers[0]} to {workers[-1]}."
    of = f" of stage {wanted.stage}" if wanted.stage else ""
    of += f" with attempt {wanted.attempt}" if wanted.attempt else ""
    return f"{name} ({phase}) has no pods{of}: they were not created yet, or were deleted with their logs."


def _why_not_started(pod: ChildPod) -> str:
    if pod.waiting and (parts := [part for part in (pod.waiting.reason, pod.waiting.message) if part]):
        return ": ".join(parts)
    return (pod.not_scheduled.message if pod.not_scheduled else "") or pod.phase
