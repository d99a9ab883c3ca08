"""``finetune list``: a line for each job, on this machine or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FineTuneJob
from finetune_api.text import duration
from finetune_cli.local import LocalError, home
from finetune_cli.local.jobs import LocalJob, local_jobs
from finetune_cli.output import Output, columns, print_error, to_json, write
from finetune_cli.view import status_text
from finetune_core.status import current_stage
from finetune_core.times import from_text

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster


@dataclass(frozen=True)
class Row:
    """One job."""

    namespace: str
    name: str
    phase: str
    progress: str
    score: str
    verdict: str
    created: str | None
    """Creation of the job, or start of its revision on this machine, RFC 3339."""
    manifest: str | None = None
    """Path of the manifest of a local job."""
    gone: bool = False
    """Whether that manifest was moved or deleted."""


async def list_cluster(cluster: Cluster, all_namespaces: bool, output: Output) -> int:
    """Print the jobs of a namespace, or of all; returns the exit code."""
    from finetune_cli.stored import read

    found = (await cluster.list_jobs(all_namespaces))["items"]
    rows = []
    for stored in found:
        job = read(stored)
        rows.append(row_of(job, str(job.status.phase), True, stored["metadata"].get("creationTimestamp")))
    where = "any namespace" if all_namespaces else f"namespace {cluster.namespace}"
    _print(rows, output, f"No FineTuneJobs in {where}.", with_namespace=all_namespaces)
    return ExitCode.DONE


def list_here(namespace: str | None, output: Output) -> int:
    """Print the jobs of this machine; returns the exit code."""
    rows, code = [], ExitCode.DONE
    for local in local_jobs(home()):
        if isinstance(local, LocalError):
            print_error(f"finetune: {local.message}")
            code = local.exit_code
        elif namespace in (None, local.job.metadata.namespace):
            rows.append(row_here(local))
    several = len({row.namespace for row in rows}) > 1
    _print(rows, output, "No jobs on this machine; start one with finetune run MANIFEST.", with_namespace=several)
    return code


def row_here(local: LocalJob) -> Row:
    """The row of a local job."""
    row = row_of(local.job, local.phase, local.running, local.job.status.start_time, local.manifest or "unknown")
    return replace(row, gone=local.is_gone)


def row_of(job: FineTuneJob, phase: str, running: bool, created: str | None, manifest: str | None = None) -> Row:
    """The row of a job; ``running`` says whether its progress may still change."""
    evaluation = job.status.evaluation
    return Row(
        job.metadata.namespace,
        job.metadata.name,
        phase,
        _progress(job, running),
        f"{evaluation.metric} {evaluation.score}" if evaluation and evaluation.metric else "",
        str(evaluation.verdict or "") if evaluation else "",
        created,
        manifest,
    )


def table(rows: list[Row], now: datetime, with_namespace: bool) -> list[str]:
    """The rows as aligned lines, with a heading."""
    local = any(row.manifest is not None for row in rows)
    heading = ["NAME", "PHASE", "PROGRESS", "SCORE", "VERDICT", "AGE", *(["MANIFEST"] if local else [])]
    lines = [["NAMESPACE", *heading] if with_namespace else heading]
    for row in rows:
        age = duration((now - from_text(row.created)).total_seconds()) if row.created else ""
        cells = [
            row.name,
            row.phase,
            row.progress,
            row.score,
            row.verdict,
            age,
            *([f"{row.manifest or ''}{' (gone)' if row.gone else ''}"] if local else []),
        ]
        lines.append([row.namespace, *cells] if with_namespace else cells)
    return columns(lines)


def _progress(job: FineTuneJob, running: bool) -> str:
    status = job.status
    if status.completion_time:
        if status.failure and status.failure.reason is Reason.GATE_FAILED:
            return "not published: a gate failed"
        return f"failed in {status.failure.stage}" if status.failure else "published"
    stage = current_stage(status)
    if stage is None:
        return ""
    if running and status.progress:
        return f"{status.progress.stage}: {status_text(status.progress)}"
    at = f" at step {status.checkpoint.step}" if status.checkpoint and stage.name == "train" else ""
    return f"{stage.name}{at}" if stage.attempt else ""


def _print(rows: list[Row], output: Output, nothing: str, with_namespace: bool) -> None:
    if output is Output.JSON:
        write(to_json({"items": [_document(row) for row in rows]}))
    elif rows:
        write("\n".join(table(rows, datetime.now(UTC), with_namespace)))
    else:
        print_error(nothing)


def _document(row: Row) -> dict[str, Any]:
    return {
        name: value
        for name, value in (
            ("namespace", row.namespace),
            ("name", row.name),
            ("phase", row.phase),
            ("progress", row.progress),
            ("score", row.score),
            ("verdict", row.verdict),
            ("created", row.created),
            ("manifest", row.manifest),
            ("manifestGone", row.gone or None),
        )
        if value is not None
    }
