"""One run as a local process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import CodeExecution, StageError, World
from finetune_cli.local import processes
from finetune_cli.local.errors import LocalError, cannot_write
from finetune_cli.local.machine import free_ports
from finetune_cli.local.progress import read_progress
from finetune_cli.local.state import RunDirectory, RunRecord, write_atomic
from finetune_core.runs import ObservedRun, PolledProgress, RunState, StageRun
from finetune_core.times import from_text

_POLL_SECONDS = 0.5
_NOT_POLLED = PolledProgress()


class StageProcess:
    """A run that this executor started; also after its end."""

    def __init__(
        self,
        run: StageRun,
        directory: RunDirectory,
        on_change: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._run = run
        self._directory = directory
        self._on_change = on_change
        self._clock = clock
        self._polled = PolledProgress()
        self._record: RunRecord | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._killer: asyncio.TimerHandle | None = None
        self._kill_at = float("inf")
        self._stop_sent = False
        self._disrupted = False

    @property
    def alive(self) -> bool:
        return self._record is not None and self._record.finished_at is None

    @property
    def observed(self) -> ObservedRun:
        """The observed run, as the plan needs it."""
        if self._record is None:
            return ObservedRun(self._run.id, RunState.PENDING, self._run.job.spec_digest)
        return observed_run(self._directory, self._record, self._polled)

    async def start(self, command: Sequence[str], world: World) -> None:
        """Start the process: ``<command> <stage> --config <stage.json>``.

        Raises:
            LocalError: The directory is not writable, or the process cannot be started.
        """
        directory = self._directory
        port, main_port = free_ports(2)
        config = self._run.config(
            world=world,
            workspace=str(directory.workspace),
            termination_message_path=str(directory.termination),
            port=port,
            listen="127.0.0.1",
            main_address="127.0.0.1",
            main_port=main_port,
            code_execution=CodeExecution() if self._run.runs_code else None,
        )
        try:
            directory.workspace.mkdir(parents=True, exist_ok=True)
            directory.termination.unlink(missing_ok=True)
            write_atomic(directory.config, config.model_dump_json(exclude_none=True).encode())
            log = directory.log.open("ab")
        except OSError as error:
            raise cannot_write(directory.path, error) from error
        with log:
            self._process = await self._spawn(
                [*command, str(self._run.id.stage), "--config", str(directory.config)], log.fileno()
            )
        self._record = RunRecord(
            pid=self._process.pid,
            identity=processes.identity(self._process.pid),
            spec_digest=self._run.job.spec_digest,
            started_at=self._clock().isoformat(),
        )
        self._write_record()
        self._polled = PolledProgress(silent_since=self._clock())
        self._tasks = [asyncio.create_task(self._wait()), asyncio.create_task(self._poll(port))]

    def stop(self, grace: timedelta, on_request: bool) -> None:
        """Send SIGTERM once, and SIGKILL after ``grace``; a shorter grace period replaces a longer one.

        With ``on_request`` the job is being suspended: if the process then ends badly, the run has not failed.
        """
        self._disrupted = self._disrupted or on_request
        loop = asyncio.get_running_loop()
        if self._process is not None and not self._stop_sent:
            self._stop_sent = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        kill_at = loop.time() + grace.total_seconds()
        if kill_at < self._kill_at - 1:
            if self._killer:
                self._killer.cancel()
            self._kill_at = kill_at
            self._killer = loop.call_at(kill_at, self.kill)

    def kill(self) -> None:
        """Kill the process and all its descendants."""
        if self.alive and self._process is not None:
            processes.kill_group(self._process.pid)
            processes.kill(processes.alive(self._directory.path))

    async def ended(self) -> None:
        """Wait for the end of the run. Errors in recording its end are not raised."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        elif self._process is not None:
            # Its start could not be recorded.
            self.kill()
            await self._process.wait()

    async def _spawn(self, command: list[str], log: int) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, processes.MARK: str(self._directory.path), "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise LocalError(f"Cannot start {command[0]}: {error.strerror}.", ExitCode.INTERNAL) from error

    async def _wait(self) -> None:
        assert self._process is not None
        assert self._record is not None
        code = await self._process.wait()
        if self._killer:
            self._killer.cancel()
        # Descendants that are still alive would keep memory and ports.
        processes.kill_group(self._process.pid)
        processes.kill(processes.alive(self._directory.path))
        self._tasks[1].cancel()
        await asyncio.to_thread(remove_workspace, self._directory.workspace)
        self._record = self._record.model_copy(
            update={
                "finished_at": self._clock().isoformat(),
                "exit_code": code,
                "disrupted": self._disrupted and code < 0,
            }
        )
        try:
            self._write_record()
        finally:
            self._on_change()

    async def _poll(self, port: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async with aiohttp.ClientSession() as session:
                while True:
                    progress = await read_progress(session, port)
                    if progress is not None and progress != self._polled.progress:
                        self._polled = PolledProgress(progress, self._clock())
                        self._on_change()
                    await asyncio.sleep(_POLL_SECONDS)

    def _write_record(self) -> None:
        assert self._record is not None
        try:
            self._directory.write_record(self._record)
        except OSError as error:
            raise cannot_write(self._directory.path, error) from error


def observed_run(directory: RunDirectory, record: RunRecord, polled: PolledProgress = _NOT_POLLED) -> ObservedRun:
    """The observed run, from the files of its directory."""
    running = ObservedRun(
        directory.id,
        RunState.RUNNING,
        record.spec_digest,
        started_at=from_text(record.started_at),
        exit_code=record.exit_code,
        progress=polled.progress,
        silent_since=polled.silent_since,
        disrupted=record.disrupted,
    )
    if record.finished_at is None:
        return running
    report = directory.report()
    code = record.exit_code
    if code is None and report is not None:
        code = report.exit_code
    states: dict[int | None, RunState] = {ExitCode.DONE: RunState.SUCCEEDED, ExitCode.STOPPED: RunState.STOPPED}
    state = states.get(code, RunState.FAILED)
    return ObservedRun(
        directory.id,
        state,
        record.spec_digest,
        started_at=running.started_at,
        finished_at=from_text(record.finished_at),
        exit_code=code,
        report=report,
        progress=polled.progress,
        disrupted=record.disrupted,
        error=_crash_error(directory, code) if report is None and not record.disrupted else None,
    )


def _crash_error(directory: RunDirectory, code: int | None) -> StageError | None:
    """The error of a stage that crashed without a report: the last line of its log."""
    if code is None or code <= 0 or code in set(ExitCode) or code > 128:
        return None
    last = directory.last_log_line()
    return StageError(
        reason=Reason.INTERNAL_ERROR,
        message=f"{directory.id.stage} ended with exit code {code}" + (f": {last}" if last else "; its log is empty."),
        exit_code=code,
    )


def remove_workspace(workspace: Path) -> None:
    """Delete the scratch space of an ended run, as Kubernetes does with an emptyDir."""
    shutil.rmtree(workspace, ignore_errors=True)
