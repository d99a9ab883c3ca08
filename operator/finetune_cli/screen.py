"""Shows a running job: a live view on a terminal, lines otherwise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from finetune_api.job import FailureStatus, FineTuneJobStatus, StageState, StageStatus
from finetune_api.text import clean
from finetune_cli.text import PlainLines, done_text, heading, retry_text
from finetune_cli.view import Running, View

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text


class Screen:
    """The output of `finetune run` and `finetune watch` while a job runs."""

    def show(self, view: View) -> None:
        """Show the current state; this class shows nothing."""


class PlainScreen(Screen):
    """Prints one line per change, without control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = PlainLines()
        self._closed = False

    def show(self, view: View) -> None:
        lines = self._lines.update(view, time.monotonic())
        if not lines or self._closed:
            return
        try:
            print(*lines, sep="\n", file=self._stream, flush=True)
        except OSError:
            # The reader has closed the pipe; the training continues.
            self._closed = True


class LiveScreen(Screen):
    """Redraws the stages in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: View) -> None:
        with contextlib.suppress(OSError):
            self._live.update(render(view))


@contextlib.contextmanager
def screen(stream: TextIO, quiet: bool = False) -> Iterator[Screen]:
    """The screen for ``stream``; with ``quiet`` nothing is shown unless it is a terminal."""
    if not stream.isatty():
        yield Screen() if quiet else PlainScreen(stream)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, markup=False)
    if console.is_dumb_terminal:
        yield PlainScreen(stream)
        return
    live = Live(console=console, refresh_per_second=8)
    live.start()
    try:
        yield LiveScreen(live)
    finally:
        with contextlib.suppress(OSError):  # The terminal may have closed.
            live.stop()


def render(view: View) -> Group:
    """The live view: heading, notes, and a line per stage."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    status = view.job.status
    first, second = heading(view.job, view.world)
    parts: list[RenderableType] = [Text(first, style="bold"), Text(second, style="dim")]
    parts += [Text(f"! {clean(note)}", style="yellow") for note in view.notes]
    parts.append(Text())
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=8)
    table.add_column(ratio=1)
    for name in status.planned if status.revision else ():
        _add_stage(table, status.stage(name), view)
    parts.append(table)
    failure = status.failure
    if failure and failure.retried:
        parts.append(_Retry(failure, view.outage.retry_at if view.outage else None))
    if view.suspension:
        parts.append(Text(view.suspension[:1].upper() + view.suspension[1:], style="yellow"))
    return Group(*parts)


@dataclass(frozen=True)
class _Retry:
    """Why and when a stage is retried; counts down, because the view is drawn several times a second."""

    failure: FailureStatus
    at: datetime | None

    def __rich__(self) -> Text:
        from rich.text import Text

        seconds = (self.at - datetime.now(UTC)).total_seconds() if self.at else None
        return Text(f"! {self.failure.stage}: {retry_text(self.failure, seconds)}", style="yellow")


def _add_stage(table: Table, stage: StageStatus, view: View) -> None:
    from rich.spinner import Spinner
    from rich.text import Text

    name = Text(stage.name)
    running = view.running
    if stage.state is StageState.SUCCEEDED:
        table.add_row(Text("✔", style="green"), name, Text(done_text(stage)))
    elif stage.state is StageState.FAILED:
        table.add_row(Text("✘", style="red"), name, Text("failed", style="red"))
    elif running and running.stage is stage.name:
        table.add_row(Spinner("dots", style="cyan"), name, _running(stage, running))
    else:
        table.add_row(Text("·", style="dim"), Text(stage.name, style="dim"), Text(_waiting(stage, view.job.status)))


def _running(stage: StageStatus, running: Running) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    attempt = f"attempt {stage.attempt}: " if stage.attempt > 1 else ""
    text = Text(attempt + (running.text or "starting"))
    if running.done is None or not running.total:
        return text
    return Group(text, ProgressBar(total=running.total, completed=running.done, width=40))


def _waiting(stage: StageStatus, status: FineTuneJobStatus) -> str:
    if stage.attempt == 0:
        return ""
    return "retried soon" if status.failure else "stopped"
