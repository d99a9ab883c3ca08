"""``finetune watch``: the live view of a job on a cluster."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_cli.output import Output, complain, out, program, to_json, write
from finetune_cli.place import OnCluster
from finetune_cli.refusals import ClusterError
from finetune_cli.result import INTERRUPTED, document, exit_code, result_lines
from finetune_cli.screen import Screen, screen
from finetune_cli.stored import has_ended, is_seen, read, refused
from finetune_cli.view import of_job

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

_UNSEEN_SECONDS = 20.0
_AGAIN_SECONDS = 3.0


async def watch(cluster: Cluster, name: str, output: Output) -> int:
    """Show a job until it ends or Ctrl-C is pressed; returns the exit code."""
    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        watcher = Watcher(cluster, name, shown)
        job = await _until_interrupted(watcher.run())
    where = f"{name} -n {cluster.namespace}"
    if job is None:
        if watcher.deleted:
            complain(f"finetune: {name} was deleted in namespace {cluster.namespace}; what was published stays.")
            return ExitCode.NOT_FOUND
        complain(f"The job goes on without being watched; {program()} watch {where} comes back to it.")
        return INTERRUPTED
    told = refused(job)
    code = ExitCode.BAD_CONFIGURATION if told and job.status.completion_time is None else exit_code(job)
    if output is Output.JSON:
        write(to_json(document(job, [], int(code))))
    elif told and job.status.completion_time is None:
        write(f"\nNot accepted: {told}")
    else:
        write("\n".join(result_lines(job, OnCluster(job.metadata.namespace, job.metadata.name))))
    return code


@dataclass
class Watcher:
    """Follows one job and shows what changes."""

    cluster: Cluster
    name: str
    shown: Screen
    deleted: bool = False
    _notes: list[str] = field(default_factory=list)
    _job: FineTuneJob | None = None

    async def run(self) -> FineTuneJob | None:
        """The job at its end; None when it is deleted.

        Raises:
            ClusterError: It cannot be watched, and trying again would not help.
        """
        unseen = asyncio.create_task(self._wonder())
        try:
            while True:
                try:
                    if await self._follow():
                        return None if self.deleted else self._job
                except ClusterError as error:
                    if not error.transient or self._job is None:
                        raise
                    self._note(
                        "The connection to the cluster was lost; it is taken up again as soon as there is an answer."
                    )
                    await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            unseen.cancel()

    async def _follow(self) -> bool:
        """Show changes as long as the connection lasts; returns whether that was all."""
        async for stored in self.cluster.watch(self.name):
            if stored is None and self._job is None:
                await self.cluster.get(self.name)  # Says what is wrong: no such job, namespace or kind.
                return False
            if stored is None:
                self.deleted = True
                return True
            self._job = read(stored)
            self._show()
            if has_ended(self._job):
                return True
        return False

    async def _wonder(self) -> None:
        """Say so when the operator does not look at the job."""
        await asyncio.sleep(_UNSEEN_SECONDS)
        while self._job and is_seen(self._job):
            await asyncio.sleep(_UNSEEN_SECONDS)
        self._note(
            "The operator has not looked at this spec yet; see that it runs and serves namespace "
            f"{self.cluster.namespace}."
        )

    def _note(self, sentence: str) -> None:
        if sentence not in self._notes:
            self._notes.append(sentence)
            self._show()

    def _show(self) -> None:
        # The status of an old spec would be taken for that of the new one.
        if self._job and (is_seen(self._job) or not self._job.status.completion_time):
            self.shown.show(of_job(self._job, tuple(self._notes)))
        elif self._job:
            self.shown.show(of_job(_forgotten(self._job), tuple(self._notes)))


def _forgotten(job: FineTuneJob) -> FineTuneJob:
    """``job`` before anything was done for its spec."""
    return job.model_copy(update={"status": type(job.status)()})


async def _until_interrupted(work: Coroutine[Any, Any, FineTuneJob | None]) -> FineTuneJob | None:
    """The result of ``work``, or None after a signal that ends the watching."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None
