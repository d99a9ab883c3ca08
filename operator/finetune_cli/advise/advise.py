"""Carries ``finetune advise`` out."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import PrepareResult
from finetune_cli.advise.candidates import Candidate, candidates
from finetune_cli.advise.costs import costs_of
from finetune_cli.advise.earlier import with_earlier
from finetune_cli.advise.hardware import Hardware, this_machine
from finetune_cli.advise.models import addresses, measured
from finetune_cli.advise.recommend import Trial, ordered, recommended
from finetune_cli.advise.report import Advice, document, lines
from finetune_cli.advise.tries import TrialsStopped, try_methods
from finetune_cli.dry_run import report_failure
from finetune_cli.local import LocalError, Machine, home
from finetune_cli.local.jobs import known_job, manifest_path
from finetune_cli.output import Output, print_error, to_json, write
from finetune_cli.result import INTERRUPTED
from finetune_cli.scratch import prepare_in


def advise(
    manifest: str,
    job: FineTuneJob,
    hardware: Hardware | None,
    *,
    models: Sequence[str] = (),
    tries: int = 0,
    output: Output = Output.TEXT,
) -> int:
    """Print which methods and models suit a job; returns the exit code.

    Args:
        manifest: The argument of the command line.
        job: The job of the manifest.
        hardware: GPUs by name; None for this machine.
        models: Base models to compare with that of the job.
        tries: How many methods to train for a few steps.
        output: Text or JSON.

    Raises:
        LocalError: The trainer is not installed, or cannot read model or data, or the disk is full.
    """
    if job.spec.model.adapter is not None:
        raise LocalError(
            "spec.model.adapter decides the method: training continues with that of the adapter. Remove it to choose "
            "one.",
            ExitCode.BAD_CONFIGURATION,
        )
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            return _advise(manifest, job, hardware, models=models, tries=tries, output=output, scratch=Path(scratch))
    except (KeyboardInterrupt, TrialsStopped):
        print_error("Stopped; nothing was stored.")
        if output is Output.JSON:
            write(to_json({"exitCode": INTERRUPTED}))
        return INTERRUPTED


def _advise(
    manifest: str,
    job: FineTuneJob,
    hardware: Hardware | None,
    *,
    models: Sequence[str],
    tries: int,
    output: Output,
    scratch: Path,
) -> int:
    machine, spec = Machine.detect(), job.spec
    chosen = hardware or this_machine(spec, machine)
    found = candidates(spec, chosen.distributed)
    known = known_job(home(), job, manifest_path(manifest))
    prepared = prepare_in(
        scratch,
        job.model_copy(update={"spec": _first(found, spec).spec}),
        known.job.status if known else FineTuneJobStatus(),
        machine,
        output=output,
        note="Nothing is stored: the data is prepared to advise on the method.",
    )
    result = prepared.report.result if prepared.report else None
    if not isinstance(result, PrepareResult):
        return report_failure(prepared, output)
    _tell(output, "Computing what each method costs.")
    with stops_as_interrupt():
        costs = costs_of(found, result, chosen, scratch)
    if hardware is None:
        costs = replace(costs, found=tuple(with_earlier(list(costs.found), known, chosen.world)))
    trials: list[Trial] = []
    if tries:
        trials = try_methods(job, ordered(costs, spec)[:tries], scratch, machine, output)
        speeds = {one.name: one.tokens_per_second for one in trials if one.loss is not None}
        timed = [cost.with_throughput(speeds.get(cost.candidate.name, 0.0), "tried") for cost in costs.found]
        costs = replace(costs, found=tuple(timed))
    scores = []
    for number, uri in enumerate(wanted := _compared(job, models), 1):
        _tell(output, f"Measuring {uri}, {number} of {len(wanted)}.")
        with stops_as_interrupt():
            scores.append(measured(job, uri, scratch / "model"))
    advice = Advice(spec, manifest, chosen, found, costs, recommended(costs, spec, trials), trials, scores)
    write(to_json(document(advice)) if output is Output.JSON else "\n".join(["", *lines(advice)]))
    return ExitCode.DONE


def _first(found: Sequence[Candidate], spec: FineTuneJobSpec) -> Candidate:
    """The candidate whose data is prepared: the method of the manifest, or one that is for every family of models.

    Raises:
        LocalError: The rules allow none.
    """
    allowed = [one for one in found if one.spec is not None]
    general = [one for one in allowed if spec.task.type not in one.method.row.refused_families]
    own = [one for one in general if one.method is spec.method.type]
    if not allowed:
        raise LocalError(
            f"No method is possible for this job: {'; '.join(dict.fromkeys(one.refusal for one in found))}.",
            ExitCode.BAD_CONFIGURATION,
        )
    return (own or general or allowed)[0]


def _compared(job: FineTuneJob, models: Sequence[str]) -> list[str]:
    """The models to measure: that of the job first, if there are others."""
    given = addresses(models)
    return list(dict.fromkeys([job.spec.model.uri, *given])) if given else []


def _tell(output: Output, sentence: str) -> None:
    if output is Output.TEXT:
        write(sentence)
    elif sys.stderr.isatty():
        print_error(sentence)


@contextmanager
def stops_as_interrupt() -> Iterator[None]:
    """Context in which SIGTERM, and a terminal that closes, end the command as Ctrl-C does, so that nothing is left."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
