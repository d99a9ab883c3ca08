"""``finetune run``: one job on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from enum import StrEnum
from typing import Any

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_cli.manifest import ManifestError, load
from finetune_cli.result import document, exit_code, result_lines, to_json
from finetune_cli.screen import Screen, out, screen
from finetune_cli.text import clean
from finetune_operator.local import Executor, LocalError, Machine, StateDirectory, home


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


def run(manifest: str, output: Output, fresh: bool) -> int:
    """Carry the job of a manifest out; returns the exit code."""
    try:
        wanted = load(manifest)
    except ManifestError as error:
        problems = error.problems
        _complain([str(problem) for problem in problems])
        if output is Output.JSON:
            listed = [{"file": one.file, "line": one.line, "message": one.message} for one in problems]
            _write(to_json({"exitCode": int(ExitCode.BAD_CONFIGURATION), "errors": listed}))
        return ExitCode.BAD_CONFIGURATION
    meta = wanted.metadata
    try:
        with StateDirectory.locked(home(), meta.namespace, meta.name) as state:
            job, code = _run(state, wanted, output, fresh)
            _write(
                to_json(document(job, state, code)) if output is Output.JSON else "\n".join(result_lines(job, state))
            )
            return code
    except LocalError as error:
        _complain([f"finetune: {error.message}"])
        if output is Output.JSON:
            _write(to_json({"exitCode": int(error.exit_code), "errors": [{"message": error.message}]}))
        return error.exit_code


def _run(state: StateDirectory, wanted: FineTuneJob, output: Output, fresh: bool) -> tuple[FineTuneJob, int]:
    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        job, number = asyncio.run(_carry_out(state, wanted, shown, fresh))
    code = exit_code(job)
    if job.status.completion_time is None and number:
        code = 128 + number
    return job, code


async def _carry_out(
    state: StateDirectory, wanted: FineTuneJob, shown: Screen, fresh: bool
) -> tuple[FineTuneJob, int | None]:
    """The job at its end, and the signal that asked for it, if one did."""
    executor = Executor(state, wanted, shown.show, machine=Machine.detect(), fresh=fresh)
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        executor.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, int(number))
    job = await executor.run()
    return job, received[0] if received else None


def _complain(lines: list[str]) -> None:
    with contextlib.suppress(OSError):
        print(*map(clean, lines), sep="\n", file=sys.stderr, flush=True)  # noqa: T201


def _write(text: str) -> None:
    stream: Any = out()
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # The reader is gone; without this the interpreter would complain at its end.
        with contextlib.suppress(OSError, ValueError):
            stream.close()
