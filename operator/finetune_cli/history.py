"""``finetune history``: the revisions of a job, and what changed in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.digests import RESULT_FIELDS
from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobSpec, RevisionRecord
from finetune_api.stage import StageConfig
from finetune_cli.local.jobs import LocalJob
from finetune_cli.output import Output, columns, to_json, write
from finetune_cli.result import shown_uri
from finetune_core.sentences import clipped
from finetune_core.times import from_text

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

_MOST_CHANGES = 3
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Revision:
    """One revision of a job."""

    revision: int
    phase: str
    started: str | None
    completed: str | None
    score: str | None
    changed: str
    """What differs from the revision before it."""
    artifact: str | None
    digest: str | None


async def history_on_cluster(cluster: Cluster, name: str, output: Output) -> int:
    """Print the revisions of a job on a cluster; returns the exit code."""
    from finetune_cli.stored import read

    job = read(await cluster.get(name))
    _print(revisions(job, str(job.status.phase), {}), output)
    return ExitCode.DONE


def history_here(local: LocalJob, output: Output) -> int:
    """Print the revisions of a job of this machine; returns the exit code."""
    _print(revisions(local.job, local.phase, specs(local)), output)
    return ExitCode.DONE


def specs(local: LocalJob) -> dict[int, FineTuneJobSpec]:
    """The specs of the revisions, from the configuration of their stages."""
    found: dict[int, FineTuneJobSpec] = {}
    for run in local.state.runs():
        try:
            found[run.id.revision] = StageConfig.model_validate_json(run.config.read_bytes()).spec
        except (OSError, ValueError):
            continue
    return found


def revisions(job: FineTuneJob, phase: str, known: Mapping[int, FineTuneJobSpec]) -> list[Revision]:
    """The revisions, oldest first; ``known`` are the specs that are stored."""
    records = sorted([*job.status.history, *_current(job)], key=lambda record: record.revision)
    found = []
    before: RevisionRecord | None = None
    for record in records:
        is_current = record.revision == job.status.revision
        artifact = record.artifact
        found.append(
            Revision(
                record.revision,
                phase if is_current else str(record.phase),
                record.start_time,
                record.completion_time,
                _score(record, known),
                _changed(before, record, known) if before else "",
                artifact.uri if artifact else None,
                artifact.digest if artifact else None,
            )
        )
        before = record
    return found


def differences(before: FineTuneJobSpec, after: FineTuneJobSpec) -> list[str]:
    """Fields that decide the result and differ: ``training.epochs 3 → 1``."""
    old, new = (dict(_leaves(spec.model_dump(mode="json", include=set(RESULT_FIELDS)), "")) for spec in (before, after))
    return [
        f"{path} {_value(old.get(path))} → {_value(new.get(path))}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]


def _current(job: FineTuneJob) -> tuple[RevisionRecord, ...]:
    status = job.status
    if not status.revision:
        return ()
    return (
        RevisionRecord(
            revision=status.revision,
            phase=status.phase,
            spec_digest=status.spec_digest,
            artifact=status.artifact,
            score=status.evaluation.score if status.evaluation else None,
            training=status.training,
            start_time=status.start_time,
            completion_time=status.completion_time,
        ),
    )


def _score(record: RevisionRecord, known: Mapping[int, FineTuneJobSpec]) -> str | None:
    """The score, with the name of its metric where the spec is known."""
    spec = known.get(record.revision)
    return record.score and (f"{spec.metrics[0]} {record.score}" if spec else record.score)


def _changed(before: RevisionRecord, record: RevisionRecord, known: Mapping[int, FineTuneJobSpec]) -> str:
    old, new = known.get(before.revision), known.get(record.revision)
    if old and new and (found := differences(old, new)):
        more = len(found) - _MOST_CHANGES
        return ", ".join(found[:_MOST_CHANGES]) + (f" and {more} more" if more > 0 else "")
    if before.spec_digest != record.spec_digest:
        same_training = (
            before.training and record.training and before.training.spec_digest == record.training.spec_digest
        )
        return "evaluation" if same_training else "model, task, data, method or training"
    digests = [one.training.inputs_digest if one.training else "" for one in (before, record)]
    if all(digests) and digests[0] != digests[1]:
        return "content of the data or the base model"
    return "nothing: run again"


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name != "secretRef":
                yield from _leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, item in enumerate(node):
            yield from _leaves(item, f"{path}[{index}]")
    elif node not in (None, []):
        yield path, node


def _value(value: Any) -> str:
    """A value for people; one that is not set has its default."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return clipped(", ".join(map(str, value)) if isinstance(value, list) else str(value), _LONGEST_VALUE)


def _print(found: list[Revision], output: Output) -> None:
    if output is Output.JSON:
        items = [{name: value for name, value in asdict(one).items() if value is not None} for one in found]
        write(to_json({"revisions": items}))
        return
    write(
        "\n".join(
            columns([["REVISION", "PHASE", "STARTED", "ENDED", "SCORE", "CHANGED", "ARTIFACT"], *map(_row, found)])
        )
    )


def _row(one: Revision) -> list[str]:
    artifact = shown_uri(one.artifact) if one.artifact else ""
    times = [_local_time(one.started), _local_time(one.completed)]
    return [str(one.revision), one.phase, *times, one.score or "", one.changed, artifact]


def _local_time(text: str | None) -> str:
    return from_text(text).astimezone().strftime("%Y-%m-%d %H:%M") if text else ""
