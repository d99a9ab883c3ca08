"""``finetune logs``: what the pods of a job wrote."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_api.stage import STAGES, Stage
from finetune_cli.output import complain
from finetune_cli.refusals import ClusterError
from finetune_cli.stored import has_ended, read
from finetune_core.names import ATTEMPT_LABEL, CONTAINER, JOB_LABEL, STAGE_LABEL, index_of, run_of
from finetune_core.runs import RunId

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Wanted:
    """Which pods a person means; None is the newest."""

    stage: Stage | None = None
    attempt: int | None = None
    worker: int = 0

    @property
    def is_one_run(self) -> bool:
        return self.stage is not None or self.attempt is not None


@dataclass(frozen=True)
class Pod:
    """A pod of a job."""

    name: str
    run: RunId
    worker: int
    started: bool
    trouble: str

    @property
    def order(self) -> tuple[int, int, int]:
        """Greater for a later run."""
        return self.run.revision, STAGES.index(self.run.stage), self.run.attempt


async def logs(cluster: Cluster, name: str, wanted: Wanted, follow: bool, tail: int | None) -> int:
    """Print the log of a run; returns the exit code."""
    last: tuple[int, int, int] | None = None
    while True:
        job = read(await cluster.get(name))
        pods = await _pods(cluster, name, wanted)
        pod = chosen(pods, wanted.worker, last)
        if pod is None or not pod.started:
            over = last is not None and (wanted.is_one_run or has_ended(job))
            if over:
                return ExitCode.DONE
            if not follow or has_ended(job):
                complain(f"finetune: {_why_none(pods, pod, name, str(job.status.phase), wanted)}")
                return ExitCode.NOT_FOUND
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            continue
        if last is not None or (follow and not wanted.is_one_run):
            complain(f"==> {pod.run.stage}, attempt {pod.run.attempt}")
        try:
            await _print(cluster, pod, follow, tail if last is None else None)
        except ClusterError as error:
            # The pod may be removed between two looks, which is no reason to end the following.
            if not follow or error.code != 404:
                raise
        last = pod.order
        if not follow or wanted.is_one_run:
            return ExitCode.DONE


def chosen(pods: Iterable[Pod], worker: int, after: tuple[int, int, int] | None = None) -> Pod | None:
    """The pod of the newest run, or of the first one that comes after another; None when there is none."""
    fitting = [pod for pod in pods if pod.worker == worker and (after is None or pod.order > after)]
    if not fitting:
        return None
    return max(fitting, key=lambda pod: pod.order) if after is None else min(fitting, key=lambda pod: pod.order)


def pod_of(stored: dict[str, Any]) -> Pod | None:
    """The pod that an object is; None when its labels name no run."""
    meta, status = stored["metadata"], stored.get("status") or {}
    found = run_of(meta.get("labels") or {})
    if found is None:
        return None
    containers = [entry for entry in status.get("containerStatuses") or () if entry.get("name") == CONTAINER]
    state = containers[0].get("state") or {} if containers else {}
    waiting = state.get("waiting") or {}
    unplaced = [
        entry.get("message", "")
        for entry in status.get("conditions") or ()
        if entry.get("type") == "PodScheduled" and entry.get("status") == "False"
    ]
    trouble = ": ".join(part for part in (waiting.get("reason", ""), waiting.get("message", "")) if part)
    return Pod(
        name=meta["name"],
        run=found[1],
        worker=index_of(meta.get("annotations") or {}),
        started="running" in state or "terminated" in state,
        trouble=trouble or " ".join(unplaced) or str(status.get("phase", "Pending")),
    )


async def _pods(cluster: Cluster, name: str, wanted: Wanted) -> list[Pod]:
    labels = {JOB_LABEL: name}
    if wanted.stage:
        labels[STAGE_LABEL] = str(wanted.stage)
    if wanted.attempt:
        labels[ATTEMPT_LABEL] = str(wanted.attempt)
    return [pod for stored in await cluster.pods(labels) if (pod := pod_of(stored))]


async def _print(cluster: Cluster, pod: Pod, follow: bool, tail: int | None) -> None:
    try:
        async for piece in cluster.log(pod.name, CONTAINER, follow, tail):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader is gone; without this the interpreter would complain at its end.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise asyncio.CancelledError from None


def _why_none(pods: list[Pod], pod: Pod | None, name: str, phase: str, wanted: Wanted) -> str:
    if pod:
        return f"pod {pod.name} has not started, so there is no log yet: {pod.trouble}"
    if pods:
        workers = sorted({one.worker for one in pods})
        return f"there is no worker {wanted.worker}; there are workers {workers[0]} to {workers[-1]}."
    of = f" of stage {wanted.stage}" if wanted.stage else ""
    of += f" with attempt {wanted.attempt}" if wanted.attempt else ""
    return f"{name} ({phase}) has no pods{of}: they have not been made yet, or are gone with their logs."
