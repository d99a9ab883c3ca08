"""``finetune logs`` of a job of this machine."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence

from finetune_api.failures import ExitCode
from finetune_cli.local.jobs import LocalJob
from finetune_cli.local.state import RunDirectory
from finetune_cli.logs import Wanted
from finetune_cli.output import print_error
from finetune_cli.printable import printable

_POLL_SECONDS = 0.5


def logs_here(found: Callable[[], LocalJob], wanted: Wanted, follow: bool, tail: int | None) -> int:
    """Print the log of a run; returns the exit code. ``found`` reads the state of the job again."""
    last: RunDirectory | None = None
    while True:
        local = found()
        run = chosen(started_runs(local, wanted), last)
        if run is not None:
            if last is not None or (follow and not wanted.is_one_run):
                print_error(f"==> {run.id.stage}, attempt {run.id.attempt}")
            _print(run, found, follow, tail if last is None else None)
            last = run
            if not follow or wanted.is_one_run:
                return ExitCode.DONE
        elif follow and local.running and not (last and wanted.is_one_run):
            time.sleep(_POLL_SECONDS)
        else:
            if last is None:
                print_error(f"finetune: {_why_none(local, wanted)}")
            return ExitCode.NOT_FOUND if last is None else ExitCode.DONE


def started_runs(local: LocalJob, wanted: Wanted) -> list[RunDirectory]:
    """The runs with a log that match the command line, oldest first."""
    found = [
        (record.started_at, run)
        for run in local.state.runs()
        if (record := run.record()) and run.log.exists()
        if wanted.stage in (None, run.id.stage) and wanted.attempt in (None, run.id.attempt)
    ]
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def chosen(runs: Sequence[RunDirectory], after: RunDirectory | None) -> RunDirectory | None:
    """The newest run, or the first one after ``after``; None if there is none."""
    if after is None:
        return runs[-1] if runs else None
    later = runs[runs.index(after) + 1 :] if after in runs else []
    return later[0] if later else None


def _print(run: RunDirectory, found: Callable[[], LocalJob], follow: bool, tail: int | None) -> None:
    try:
        with run.log.open(encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
            _write("".join(lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]))
            while follow:
                # In this order, so that nothing is lost that the run writes before its end.
                record = run.record()
                ended = record is None or record.finished_at is not None or not found().running
                _write(file.read())
                if ended:
                    return
                time.sleep(_POLL_SECONDS)
    except BrokenPipeError:
        # The reader has closed the pipe; without this, the interpreter prints an error at exit.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise KeyboardInterrupt from None


def _write(text: str) -> None:
    sys.stdout.buffer.write(printable(text).encode())
    sys.stdout.buffer.flush()


def _why_none(local: LocalJob, wanted: Wanted) -> str:
    of = f" of stage {wanted.stage}" if wanted.stage else ""
    of += f" with attempt {wanted.attempt}" if wanted.attempt else ""
    return f"{local.job.metadata.name} ({local.phase}) has no log{of} in {local.state.path}."
