"""What came out of a run: for people, for programs, and as an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from finetune_api.evaluation import Evaluation, GateResult
from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FailureStatus, FineTuneJob, FineTuneJobStatus
from finetune_api.layout import REPORT
from finetune_api.spec import HarnessMetric
from finetune_api.stage import Stage
from finetune_api.text import clean
from finetune_cli.output import columns
from finetune_cli.place import Place
from finetune_core.policies.gates import bound
from finetune_core.runs import RunId
from finetune_core.status import current_stage
from finetune_core.summaries import BASELINE_NAMES, REFERENCE_NAMES, baseline_score, score, size

REJECTED = 1
"""Exit code of a job whose result did not pass its gates."""
INTERRUPTED = 130
"""Exit code of a stopped job, as a shell gives it after Ctrl-C; also after SIGTERM or when the terminal closes."""


def exit_code(job: FineTuneJob) -> int:
    """0 published, 1 rejected, 130 stopped, otherwise that of the stage that failed, or 70 where that says nothing."""
    failure = job.status.failure
    if job.status.completion_time is None:
        return INTERRUPTED
    if failure is None:
        return ExitCode.DONE
    if failure.reason is Reason.GATE_FAILED:
        return REJECTED
    told = failure.exit_code or 0
    return told if told >= ExitCode.BAD_CONFIGURATION else failure.reason.exit_code


def report_uri(job: FineTuneJob) -> str | None:
    """Where report.html lies; None before there is one."""
    evaluation = job.status.evaluation
    if evaluation is None:
        return None
    uri = job.status.artifact.uri if job.status.artifact else evaluation.uri
    return f"{uri}/{REPORT}" if uri else None


def result_lines(job: FineTuneJob, place: Place) -> list[str]:
    """The end of a run for people."""
    status = job.status
    lines: list[str] = []
    if status.evaluation:
        lines += ["", *comparison(status.evaluation), *gate_lines(status.evaluation)]
    lines.append("")
    if status.completion_time is None:
        return [*lines, _stopped(job, place)]
    if status.failure is None and status.artifact:
        lines += [f"artifact  {shown_uri(status.artifact.uri)}", f"digest    {status.artifact.digest}"]
    if report := report_uri(job):
        lines.append(f"report    {shown_uri(report)}")
    if status.failure:
        lines += failure_lines(status, status.failure, place)
    return [clean(line) if not line.startswith(" ") else line for line in lines]


def comparison(evaluation: Evaluation) -> list[str]:
    """The table: metric, baseline, tuned, teacher if there is one, change, interval."""
    baseline = BASELINE_NAMES[evaluation.baseline.kind]
    taught = any(metric.teacher is not None for metric in evaluation.metrics)
    compared = evaluation.baseline.kind.compared.title
    rows = [["metric", baseline, compared, *(["teacher"] if taught else []), "change", "95 % interval"]]
    rows += [
        [
            str(metric.name),
            baseline_score(metric) or "–",
            score(metric.tuned),
            *(["–" if metric.teacher is None else score(metric.teacher)] if taught else []),
            f"{metric.change:+.4f}",
            f"{metric.interval[0]:+.4f} … {metric.interval[1]:+.4f}",
        ]
        for metric in evaluation.metrics
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    justify: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(rows[0]) - 1)]
    table = ["  ".join(do(cell, width) for do, cell, width in zip(justify, row, widths, strict=True)) for row in rows]
    table.insert(1, "─" * len(table[0]))
    verdict = f"; {evaluation.metrics[0].name}: {evaluation.verdict}" if evaluation.verdict else ""
    rewards = {metric.name: metric.measured_against for metric in evaluation.metrics if metric.measured_against}
    if rewards:
        reference = REFERENCE_NAMES[next(iter(rewards.values()))]
        table.append(
            f"{', '.join(rewards)}: rewards against the {reference}, whose own are 0; the change is from that of equal "
            "rewards"
        )
    alike = ", ".join(metric.name for metric in evaluation.metrics if metric.interval[0] == metric.interval[1])
    if alike:
        table.append(f"{alike}: every test example shows the same change; an interval without width does not tell more")
    harness = any(isinstance(metric.name, HarnessMetric) for metric in evaluation.metrics)
    others = "; task/metric on those of the lm-eval task" if harness else ""
    return [
        *table,
        f"on {evaluation.examples:,} {evaluation.split} examples{verdict}{others}",
        *_costs(evaluation),
        *evaluation.notes,
        *_slices(evaluation),
    ]


def _costs(evaluation: Evaluation) -> list[str]:
    """Size and speed of student and teacher."""
    costs = evaluation.costs
    if costs is None:
        return []
    shown = [
        f"{name} {one.parameters:,} parameters, {size(one.bytes)}, {one.tokens_per_second:,.0f} tokens/s"
        for name, one in (("student", costs.student), ("teacher", costs.teacher))
        if one is not None
    ]
    return [f"{'; '.join(shown)}, on {costs.device}{_gap(evaluation.metrics[0].gap_closed)}"]


def _gap(closed: float | None) -> str:
    """How far the student has come, after a semicolon; empty if the teacher is not better than the baseline."""
    if closed is None:
        return ""
    if closed < 0:
        return "; the student is further from the teacher than the baseline is"
    return f"; the student closes {100 * closed:.0f} % of the gap from the baseline to the teacher"


def _slices(evaluation: Evaluation) -> list[str]:
    """The score of each slice."""
    if not evaluation.slices:
        return []
    compared = evaluation.baseline.kind.compared.title
    rows = [[f"{evaluation.metrics[0].name} by", "value", "examples", "baseline", compared, "verdict"]]
    rows += [
        [
            one.column,
            "no value" if one.value is None else repr(one.value),
            f"{one.examples:,}",
            "" if one.baseline is None else score(one.baseline),
            score(one.tuned),
            str(one.verdict or "too few examples"),
        ]
        for one in evaluation.slices
    ]
    return ["", *columns(rows)]


def document(job: FineTuneJob, logs: list[dict[str, Any]], code: int) -> dict[str, Any]:
    """The end of a run for programs; ``logs`` says where they are."""
    dumped = job.model_dump(mode="json", exclude_none=True)
    status = dumped.get("status", {})
    return {
        "job": dumped,
        "phase": status.get("phase"),
        "exitCode": code,
        "artifact": status.get("artifact"),
        "evaluation": status.get("evaluation"),
        "failure": status.get("failure"),
        "report": report_uri(job),
        "logs": logs,
    }


def gate_lines(evaluation: Evaluation) -> list[str]:
    """A line for each gate."""
    return [f"{'passed' if gate.passed else 'FAILED'}  {bound(gate)}: {_found(gate)}" for gate in evaluation.gates]


def _found(gate: GateResult) -> str:
    if gate.not_worse and gate.value == 0:
        return "it is not better"
    if gate.not_worse:
        return (
            f"it improves by at most {gate.value:.4g}" if gate.passed else f"it is worse by at least {-gate.value:.4g}"
        )
    return f"it is {gate.value:.4g}"


def _stopped(job: FineTuneJob, place: Place) -> str:
    current = current_stage(job.status)
    if job.spec.suspend:
        return f"Holds in {current.name if current else Stage.PUBLISH}, as spec.suspend is true."
    if current and current.name is Stage.TRAIN and job.status.checkpoint:
        return f"Stopped after the checkpoint of step {job.status.checkpoint.step}; {place.resume}."
    return f"Stopped in {current.name if current else Stage.PUBLISH}; {place.resume}."


def failure_lines(status: FineTuneJobStatus, failure: FailureStatus, place: Place) -> list[str]:
    """What failed, whose fault it is, where its log is and what comes next."""
    if failure.reason is Reason.GATE_FAILED:
        return [f"Not published: {failure.message}", place.again(failure.reason)]
    where = f"{failure.stage}, attempt {failure.attempt}" + ("" if failure.rank is None else f", rank {failure.rank}")
    lines = [f"Failed in {where} ({failure.reason}): {failure.message}", place.whose(failure.fault)]
    if log := place.log(RunId(status.revision, failure.stage, failure.attempt)):
        lines.append(f"log       {log}")
    if not failure.retried:
        return [*lines, place.again(failure.reason)]
    attempt = status.stage(failure.stage).attempt
    return [*lines, f"Attempt {attempt} has begun." if attempt > failure.attempt else "Another attempt follows."]


def shown_uri(uri: str) -> str:
    """An address for people: a path where it is one."""
    return unquote(urlsplit(uri).path) if uri.startswith("file:///") else uri
