"""``finetune watch``: shows a job on a cluster until it finishes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_cli.output import Output, out, print_error, program, to_json, write
from finetune_cli.place import OnCluster
from finetune_cli.refusals import ClusterError
from finetune_cli.result import INTERRUPTED, document, exit_code, result_lines
from finetune_cli.screen import Screen, screen
from finetune_cli.stored import has_finished, is_observed, read, rejection
from finetune_cli.view import of_job

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

T = TypeVar("T")

_OBSERVE_TIMEOUT_SECONDS = 20.0
_RECONNECT_SECONDS = 3.0


async def watch(cluster: Cluster, name: str, output: Output) -> int:
    """Show a job until it finishes or Ctrl-C is pressed; returns the exit code."""
    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        watcher = Watcher(cluster, name, shown)
        job = await until_interrupted(watcher.run())
    where = f"{name} -n {cluster.namespace}"
    if job is None:
        if watcher.deleted:
            print_error(
                f"finetune: {name} was deleted from namespace {cluster.namespace}; a published artifact is kept."
            )
            return ExitCode.NOT_FOUND
        print_error(f"The job keeps running; watch it again with {program()} watch {where}.")
        return INTERRUPTED
    rejected = rejection(job)
    code = ExitCode.BAD_CONFIGURATION if rejected and job.status.completion_time is None else exit_code(job)
    if output is Output.JSON:
        write(to_json(document(job, [], int(code))))
    elif rejected and job.status.completion_time is None:
        write(f"\nNot accepted: {rejected}")
    else:
        write("\n".join(result_lines(job, OnCluster(job.metadata.namespace, job.metadata.name))))
    return code


@dataclass
class Watcher:
    """Watches one job and shows its changes."""

    cluster: Cluster
    name: str
    shown: Screen
    deleted: bool = False
    _notes: list[str] = field(default_factory=list)
    _job: FineTuneJob | None = None

    async def run(self) -> FineTuneJob | None:
        """The finished job; None if it is deleted.

        Raises:
            ClusterError: The job cannot be watched, and a retry would not help.
        """
        warning = asyncio.create_task(self._warn_if_not_observed())
        try:
            while True:
                try:
                    if await self._show_changes():
                        return None if self.deleted else self._job
                except ClusterError as error:
                    if not error.transient or self._job is None:
                        raise
                    self._note("The connection to the cluster was lost; reconnecting.")
                    await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            warning.cancel()

    async def _show_changes(self) -> bool:
        """Show changes until the watch ends; returns whether the job is finished or deleted."""
        async for stored in self.cluster.watch(self.name):
            if stored is None and self._job is None:
                await self.cluster.get(self.name)  # Raises the error: no such job, namespace or kind.
                return False
            if stored is None:
                self.deleted = True
                return True
            self._job = read(stored)
            self._show()
            if has_finished(self._job):
                return True
        return False

    async def _warn_if_not_observed(self) -> None:
        """Add a note if the operator does not reconcile the job."""
        await asyncio.sleep(_OBSERVE_TIMEOUT_SECONDS)
        while self._job and is_observed(self._job):
            await asyncio.sleep(_OBSERVE_TIMEOUT_SECONDS)
        self._note(
            "The operator has not reconciled this spec yet; check that it runs and watches namespace "
            f"{self.cluster.namespace}."
        )

    def _note(self, sentence: str) -> None:
        if sentence not in self._notes:
            self._notes.append(sentence)
            self._show()

    def _show(self) -> None:
        # Do not show the status of the previous spec as that of the new one.
        if self._job and (is_observed(self._job) or not self._job.status.completion_time):
            self.shown.show(of_job(self._job, tuple(self._notes)))
        elif self._job:
            self.shown.show(of_job(_without_status(self._job), tuple(self._notes)))


def _without_status(job: FineTuneJob) -> FineTuneJob:
    """``job`` with an empty status."""
    return job.model_copy(update={"status": type(job.status)()})


async def until_interrupted(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``; None after SIGINT, SIGTERM or SIGHUP."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None
