"""What earlier executors left: runs that ended, and runs whose executor was killed."""

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
    state: StateDirectory, note: Callable[[str], None], hurry: Callable[[], bool]
) -> dict[RunId, ObservedRun]:
    """Every run there was, after those that still live were ended. Blocks while they end; ``hurry`` kills them."""
    for directory in state.runs():
        if directory.record() is None:
            # It was being started when the executor was killed.
            processes.kill(processes.living(directory.path))
    return {
        directory.id: _settled(directory, record, note, hurry)
        for directory in state.runs()
        if (record := directory.record())
    }


def _settled(
    directory: RunDirectory, record: RunRecord, note: Callable[[str], None], hurry: Callable[[], bool]
) -> ObservedRun:
    if record.finished_at is None:
        if processes.living(directory.path, record.pid, record.identity):
            note(
                f"An earlier finetune run was killed and left {directory.id.stage} running (process {record.pid}); "
                "ending it."
            )
            processes.end_orphans(directory.path, record.pid, record.identity, _GRACE_SECONDS, hurry)
        record = record.model_copy(update={"finished_at": datetime.now(UTC).isoformat(), "disrupted": True})
        try:
            directory.write_record(record)
        except OSError as error:
            raise cannot_write(directory.path, error) from error
        remove_workspace(directory.workspace)
    return observed_run(directory, record)
