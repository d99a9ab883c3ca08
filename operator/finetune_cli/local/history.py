"""Runs of earlier executors, including those whose executor was killed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from finetune_cli.local import processes
from finetune_cli.local.child import observed_run, remove_workspace
from finetune_cli.local.errors import cannot_write
from finetune_cli.local.state import RunDirectory, RunRecord, StateDirectory
from finetune_core.runs import ObservedRun, RunId

_GRACE_SECONDS = 60.0


def earlier_runs(
    state: StateDirectory, note: Callable[[str], None], force: Callable[[], bool]
) -> dict[RunId, ObservedRun]:
    """All earlier runs. Stops those that are alive and blocks until they have ended; ``force`` kills them."""
    for directory in state.runs():
        if directory.record() is None:
            # The executor was killed while it started the process.
            processes.kill(processes.alive(directory.path))
    return {
        directory.id: _ended_run(directory, record, note, force)
        for directory in state.runs()
        if (record := directory.record())
    }


def _ended_run(
    directory: RunDirectory, record: RunRecord, note: Callable[[str], None], force: Callable[[], bool]
) -> ObservedRun:
    if record.finished_at is None:
        ended_at = directory.last_change()
        if processes.alive(directory.path, record.pid, record.identity):
            note(
                f"An earlier finetune run was killed and left stage {directory.id.stage} running "
                f"(process {record.pid}); stopping it."
            )
            processes.stop_orphans(directory.path, record.pid, record.identity, _GRACE_SECONDS, force)
            ended_at = None
        finished_at = (ended_at or datetime.now(UTC)).isoformat()
        record = record.model_copy(update={"finished_at": finished_at, "disrupted": True})
        try:
            directory.write_record(record)
        except OSError as error:
            raise cannot_write(directory.path, error) from error
        remove_workspace(directory.workspace)
    return observed_run(directory, record)
