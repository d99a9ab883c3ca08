"""The detailed view of one job, as lines of text."""

from __future__ import annotations

from finetune_api.job import ConditionType, FineTuneJob, StageState, StageStatus
from finetune_api.text import clean
from finetune_cli.place import Place
from finetune_cli.result import comparison, failure_lines, gate_lines, report_uri, shown_uri
from finetune_cli.stored import condition, is_observed, rejection
from finetune_cli.text import done_text, heading
from finetune_cli.view import View


def page(view: View, phase: str, place: Place) -> list[str]:
    """Heading, problems, stages, comparison, artifact, failure, earlier revisions."""
    job, status = view.job, view.job.status
    first, second = heading(job, view.world)
    lines = [f"{first}: {phase}", second, *_problems(job, view)]
    if status.revision:
        lines += ["", *(_stage(status.stage(name), view) for name in status.planned)]
    if status.evaluation:
        lines += ["", *comparison(status.evaluation), *gate_lines(status.evaluation)]
    lines += [""] if status.artifact or status.failure or status.checkpoint or status.evaluation else []
    if status.artifact:
        lines += [f"artifact    {shown_uri(status.artifact.uri)}", f"digest      {status.artifact.digest}"]
    elif status.checkpoint:
        lines.append(f"checkpoint  step {status.checkpoint.step} at {shown_uri(status.checkpoint.uri)}")
    if report := report_uri(job):
        lines.append(f"report      {shown_uri(report)}")
    if status.failure:
        lines += failure_lines(status, status.failure, place)
    if status.history:
        lines += ["", *_history(job)]
    return [line if line.startswith(" ") else clean(line) for line in lines]


def _problems(job: FineTuneJob, view: View) -> list[str]:
    """What blocks the job, except a failure, which is at the end."""
    lines = []
    if not is_observed(job):
        lines.append("! The operator has not reconciled this spec yet; the status below is that of the previous spec.")
    if message := rejection(job):
        lines.append(f"! Not accepted: {message}")
    if view.suspension:
        lines.append(f"! {view.suspension}")
    ready = condition(job, ConditionType.READY)
    if ready and ready.reason == "ReconcileError":
        lines.append(f"! {ready.message}")
    return lines


def _stage(stage: StageStatus, view: View) -> str:
    name, running = f"{stage.name:<8}", view.running
    if stage.state is StageState.SUCCEEDED:
        return f"✔ {name}  {done_text(stage)}"
    if stage.state is StageState.FAILED:
        return f"✘ {name}  failed"
    if running and running.stage is stage.name:
        attempt = f"attempt {stage.attempt}: " if stage.attempt > 1 else ""
        return f"▸ {name}  {attempt}{running.text or 'starting'}"
    return f"· {name}  {clean(stage.message) if stage.attempt else ''}".rstrip()


def _history(job: FineTuneJob) -> list[str]:
    lines = ["earlier revisions"]
    for record in sorted(job.status.history, key=lambda record: record.revision):  # As `finetune history`.
        score = f", score {record.score}" if record.score else ""
        where = f", {shown_uri(record.artifact.uri)}" if record.artifact else ""
        lines.append(f"r{record.revision}  {record.phase}{score}{where}")
    return lines
