"""``finetune watch`` of a job of this machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from finetune_cli.here import place_here, view_here
from finetune_cli.local.jobs import LocalJob
from finetune_cli.output import Output, out, print_error, to_json, write
from finetune_cli.result import INTERRUPTED, document, exit_code, result_lines
from finetune_cli.run import logs
from finetune_cli.screen import Screen, screen
from finetune_cli.watch import until_interrupted

_POLL_SECONDS = 1.0


def watch_here(found: Callable[[], LocalJob], output: Output) -> int:
    """Show a job until no process runs it, or Ctrl-C is pressed; returns the exit code."""
    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        local = asyncio.run(_watch(found, shown))
    if local is None:
        print_error("The job keeps running; Ctrl-C ended only this command.")
        return INTERRUPTED
    code = exit_code(local.job)
    if output is Output.JSON:
        write(to_json(document(local.job, logs(local.job, local.state), code)))
    else:
        write("\n".join(result_lines(local.job, place_here(local))))
    return code


async def _watch(found: Callable[[], LocalJob], shown: Screen) -> LocalJob | None:
    async def until_it_ends() -> LocalJob:
        while True:
            local = found()
            shown.show(view_here(local))
            if not local.running:
                # Its last state may have been saved after it was read.
                return found()
            await asyncio.sleep(_POLL_SECONDS)

    return await until_interrupted(until_it_ends())
