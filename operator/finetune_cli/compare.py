"""``finetune compare``: the scores of two results side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.evaluation import Evaluation, EvaluationFile, MetricResult
from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobSpec
from finetune_api.layout import EVALUATION, JobLayout
from finetune_cli.artifacts import Reference, address_of
from finetune_cli.local import LocalError
from finetune_cli.local.trainer import ask
from finetune_cli.output import Output, columns, print_error, to_json, write
from finetune_core.summaries import BASELINE_NAMES, score

_EQUAL = 1e-9


@dataclass(frozen=True)
class Side:
    """One of the two results."""

    title: str
    """As on the command line, with the revision."""
    address: str | None = None
    """Directory of its evaluation.json, or of its artifact."""
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Comparison:
    """What the trainer found."""

    titles: tuple[str, str]
    evaluations: tuple[Evaluation, Evaluation]
    digests: tuple[str | None, str | None]
    """Digests of the test examples; None if unknown."""
    paired: Mapping[str, MetricResult] = field(default_factory=dict)
    """The change of each metric whose interval can be computed example by example."""
    decodings: tuple[str | None, str | None] = (None, None)
    """How answers were generated, such as ``greedy``; None if none were, or it is unknown."""

    incomparable: Mapping[str, str] = field(default_factory=dict)
    """Why a metric that both have does not compare, by its name."""

    @property
    def same_test(self) -> bool | None:
        """Whether the test examples are the same; None if unknown."""
        return None if None in self.digests else self.digests[0] == self.digests[1]


def compare(sides: tuple[Side, Side], different_tests: bool, output: Output) -> int:
    """Print the comparison; returns the exit code.

    Raises:
        LocalError: There is no evaluation, or the test examples differ or are unknown and ``different_tests`` is False.
    """
    request = {
        name: {"address": side.address, "evaluation": side.evaluation and side.evaluation.model_dump(mode="json")}
        for name, side in zip(("first", "second"), sides, strict=True)
    }
    answer = ask("compare", request, "data")
    paired = [MetricResult.model_validate(one, strict=False) for one in answer["paired"]]
    first, second = (Evaluation.model_validate(one, strict=False) for one in answer["evaluations"])
    found = Comparison(
        (sides[0].title, sides[1].title),
        (first, second),
        (answer["testDigests"][0], answer["testDigests"][1]),
        {str(one.name): one for one in paired},
        (answer["decodings"][0], answer["decodings"][1]),
        answer["incomparable"],
    )
    if not found.same_test and not different_tests:
        raise LocalError(
            f"{_difference(found)}, so the scores do not say which model is better; --different-tests shows them "
            "nevertheless.",
            ExitCode.BAD_DATA,
        )
    if output is Output.JSON:
        write(to_json(document(found)))
        return ExitCode.DONE
    if not found.same_test:
        print_error(f"! {_difference(found)}: do not conclude from these scores which model is better.")
    write("\n".join(lines(found)))
    return ExitCode.DONE


def lines(found: Comparison) -> list[str]:
    """The comparison for people."""
    heading = [
        f"{letter}  {title}, on {one.examples:,} {one.split} examples"
        for letter, title, one in zip("AB", found.titles, found.evaluations, strict=True)
    ]
    first, second = ({str(metric.name): metric for metric in one.metrics} for one in found.evaluations)
    rows = [_row(name, first.get(name), second.get(name), found) for name in dict.fromkeys([*first, *second])]
    table = columns([["metric", "A", "B", "B - A", "95 % interval", ""], *rows])
    return [*heading, "", *table, *_notes(found)]


def document(found: Comparison) -> dict[str, Any]:
    """The comparison for programs."""
    first, second = ({str(metric.name): metric for metric in one.metrics} for one in found.evaluations)
    metrics = []
    for name in dict.fromkeys([*first, *second]):
        a, b, paired = first.get(name), second.get(name), found.paired.get(name)
        metrics.append(
            {
                "name": name,
                "a": a and a.tuned,
                "b": b and b.tuned,
                "difference": b.tuned - a.tuned if a and b and name not in found.incomparable else None,
                "interval": list(paired.interval) if paired else None,
                "verdict": str(paired.verdict) if paired else None,
            }
        )
    return {
        "a": found.titles[0],
        "b": found.titles[1],
        "sameTest": found.same_test,
        "testDigests": list(found.digests),
        "decodings": list(found.decodings),
        "metrics": metrics,
    }


def side_of_job(job: FineTuneJob, reference: Reference, known: Mapping[int, FineTuneJobSpec]) -> Side:
    """The result of a revision of a job; ``known`` are the specs of its revisions that are stored.

    Raises:
        LocalError: It has no evaluation.
    """
    status, meta = job.status, job.metadata
    number = reference.revision or status.revision
    title = f"{reference.job}@{number}" if number else reference.job
    if number == status.revision:
        if status.evaluation is None:
            raise LocalError(f"{title} has no evaluation ({status.phase}).", ExitCode.NOT_FOUND)
        kept = {name: getattr(status.evaluation, name) for name in Evaluation.model_fields}
        evaluation: Evaluation | None = Evaluation(**kept)
        artifact = status.artifact
    else:
        record = next((one for one in status.history if one.revision == number), None)
        if record is None:
            raise LocalError(f"{reference.job} has no revision {number}.", ExitCode.NOT_FOUND)
        if record.score is None:
            raise LocalError(f"{title} has no evaluation ({record.phase}).", ExitCode.NOT_FOUND)
        evaluation, artifact = None, record.artifact
    if artifact:
        return Side(title, artifact.uri, evaluation)
    spec = known.get(number, job.spec)
    return Side(title, JobLayout.of(spec.output.uri, meta.namespace, meta.name).revision(number).evaluated, evaluation)


def side_of_address(argument: str) -> Side | None:
    """The result at an address, in a directory or in an evaluation.json; None if the argument names a job.

    Raises:
        LocalError: The file is no evaluation.
    """
    if address := address_of(argument):
        return Side(argument, address.removesuffix(f"/{EVALUATION}"))
    path = Path(argument)
    if path.suffix != ".json" or not path.is_file():
        return None
    if path.name == EVALUATION:
        return Side(argument, path.absolute().parent.as_uri())
    try:
        content = path.read_bytes()
        if b'"kind": "FineTuneJob"' in content:  # A manifest may be JSON.
            return None
        return Side(argument, evaluation=EvaluationFile.model_validate_json(content).evaluation)
    except (OSError, ValidationError) as error:
        raise LocalError(f"{argument} is not an {EVALUATION}.", ExitCode.BAD_DATA) from error


def _row(name: str, first: MetricResult | None, second: MetricResult | None, found: Comparison) -> list[str]:
    cells = [name, *(score(one.tuned) if one else "" for one in (first, second))]
    if first is None or second is None:
        return [*cells, "", "", "only one has it"]
    if name in found.incomparable:
        return [*cells, "", "", "not comparable"]
    cells.append(_signed(second.tuned - first.tuned))
    if paired := found.paired.get(name):
        low, high = paired.interval
        return [
            *cells,
            f"{_signed(low)} … {_signed(high)}",
            f"B is {paired.verdict}" if _decided(paired) else paired.verdict,
        ]
    return [*cells, "", _overlap(first, second) if found.same_test else ""]


def _signed(value: float) -> str:
    return f"{round(value, 4) or 0.0:+.4f}"


def _decided(paired: MetricResult) -> bool:
    low, high = paired.interval
    return not low <= 0 <= high


def _overlap(first: MetricResult, second: MetricResult) -> str:
    """Whether the intervals of the changes overlap, if both are changes from the same value."""
    one, other = (0.0 if metric.baseline is None else metric.baseline for metric in (first, second))
    if first.measured_against != second.measured_against or abs(one - other) > _EQUAL + 1e-6 * abs(one):
        return ""
    apart = first.interval[1] < second.interval[0] or second.interval[1] < first.interval[0]
    return "intervals do not overlap" if apart else "intervals overlap"


def _notes(found: Comparison) -> list[str]:
    kinds = [BASELINE_NAMES[one.baseline.kind] for one in found.evaluations]
    notes = []
    first, second = found.decodings
    if first and second and first != second:
        notes.append(
            f"Answers were generated differently ({first} for A, {second} for B): a part of the difference may come "
            "from that, not from the model."
        )
    notes += [f"{name} does not compare: {why}." for name, why in found.incomparable.items()]
    if found.paired:
        notes.append("Intervals of the difference: paired bootstrap over the test examples.")
    both = set.intersection(*({str(metric.name) for metric in one.metrics} for one in found.evaluations))
    if found.same_test and (others := both - set(found.paired) - set(found.incomparable)):
        these = "these metrics" if len(others) == len(both) else ", ".join(sorted(others))
        notes.append(
            f"The stored predictions do not give {these} example by example; the words beside them are about the "
            f"intervals of the changes from the baseline ({' and '.join(dict.fromkeys(kinds))})."
        )
    return ["", *notes] if notes else []


def _difference(found: Comparison) -> str:
    if found.same_test is None:
        missing = [title for title, digest in zip(found.titles, found.digests, strict=True) if digest is None]
        return f"It is not known whether the test examples are the same, because {' and '.join(missing)} does not say"
    first, second = (str(digest)[:15] for digest in found.digests)
    return f"{' and '.join(found.titles)} were evaluated on different test examples ({first}… and {second}…)"
