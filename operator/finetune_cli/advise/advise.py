"""Carries ``finetune advise`` out."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import PrepareResult
from finetune_api.tables.methods import DEFAULT_METHOD
from finetune_cli.advise.candidates import Candidate, awaits_answers, candidates
from finetune_cli.advise.costs import Costs, asked_tokens, costs_of
from finetune_cli.advise.earlier import with_earlier
from finetune_cli.advise.endpoint import EndpointAdvice
from finetune_cli.advise.hardware import Hardware, this_machine
from finetune_cli.advise.models import ModelScore, addresses, measured
from finetune_cli.advise.recommend import Trial, ordered, recommended
from finetune_cli.advise.report import Advice, document, lines
from finetune_cli.advise.tries import TrialsStopped, try_methods
from finetune_cli.dry_run import report_failure
from finetune_cli.local import LocalError, Machine, home
from finetune_cli.local.jobs import known_job, manifest_path
from finetune_cli.output import Output, print_error, to_json, write
from finetune_cli.result import INTERRUPTED
from finetune_cli.scratch import Prepared, prepare_in


def advise(
    manifest: str,
    job: FineTuneJob,
    hardware: Hardware | None,
    *,
    models: Sequence[str] = (),
    tries: int = 0,
    output: Output = Output.TEXT,
    suggested: Sequence[str] = (),
) -> int:
    """Print which methods and models suit a job; returns the exit code.

    Args:
        manifest: The argument of the command line.
        job: The job of the manifest.
        hardware: GPUs by name; None for this machine.
        models: Base models to compare with that of the job.
        tries: How many methods to train for a few steps.
        output: Text or JSON.
        suggested: The lines that the manifest needs to be that of ``job``, if it has no method.

    Raises:
        LocalError: The trainer is not installed, or cannot read model or data, or the disk is full.
    """
    _check(job.spec, hardware, tries)
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            return _advise(
                manifest,
                job,
                hardware,
                models=models,
                tries=tries,
                output=output,
                suggested=suggested,
                scratch=Path(scratch),
            )
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
    suggested: Sequence[str],
    scratch: Path,
) -> int:
    machine, spec = Machine.detect(), job.spec
    chosen = hardware or this_machine(spec, machine)
    found = [] if spec.model.endpoint else candidates(spec, chosen.distributed)
    known = known_job(home(), job, manifest_path(manifest))

    def prepare(wanted: FineTuneJobSpec, scratch: Path) -> Prepared:
        return prepare_in(
            scratch,
            job.model_copy(update={"spec": wanted}),
            known.job.status if known else FineTuneJobStatus(),
            machine,
            output=output,
            note="Nothing is stored: the data is prepared to advise on the method.",
            world=None if hardware is None else hardware.world,
        )

    def compute(result: PrepareResult, scratch: Path) -> Costs:
        check_rows(spec, result, chosen)
        _tell(output, "Computing what each method costs.")
        with stops_as_interrupt():
            return costs_of(found, result, chosen, scratch)

    first, *others = [spec] if spec.model.endpoint else [_prepared(one, chosen) for one in to_prepare(found, spec)]
    prepared = prepare(first, scratch)
    result = prepared.report.result if prepared.report else None
    if spec.model.endpoint and isinstance(result, PrepareResult):
        tokens = asked_tokens(spec, result, chosen, scratch)
        scores = _scores(job, models, scratch, output)
        asked = EndpointAdvice.of(spec, result, tokens, scores, manifest=manifest, suggested=suggested)
        write(to_json(asked.document()) if output is Output.JSON else "\n".join(asked.lines()))
        return ExitCode.DONE
    costs = None
    if isinstance(result, PrepareResult):
        costs = compute(result, scratch)
    elif others and _is_refused(prepared):
        _tell(output, f"Preparing the data for {first.method.type} has failed; trying {others[0].method.type}.")
        costs = _searched(others[0], prepare, compute, scratch)
    if costs is None:
        return report_failure(prepared, output)
    check_packed_rows(costs)
    if hardware is None:
        costs = replace(costs, found=tuple(with_earlier(list(costs.found), known, chosen.world)))
    trials: list[Trial] = []
    if tries:
        trained = [cost for cost in ordered(costs, spec) if cost.candidate.trains]
        trials = try_methods(job, trained[:tries], scratch, machine, output)
        speeds = {one.name: one.speed for one in trials if one.loss is not None}
        timed = [
            cost.with_speed(speeds[name], "tried") if (name := cost.candidate.name) in speeds else cost
            for cost in costs.found
        ]
        costs = replace(costs, found=tuple(timed))
    scores = _scores(job, models, scratch, output)
    advice = Advice(spec, manifest, chosen, found, costs, recommended(costs, spec, trials), trials, scores, tries)
    write(to_json(document(advice)) if output is Output.JSON else "\n".join(["", *lines(advice)]))
    return ExitCode.DONE


def _check(spec: FineTuneJobSpec, hardware: Hardware | None, tries: int) -> None:
    """Check that there is something to advise on.

    Raises:
        LocalError: There is not.
    """
    problem = ""
    if spec.model.adapter is not None:
        problem = (
            "spec.model.adapter decides method and base model: training continues with those of the adapter. Remove it "
            "to choose others; finetune run --dry-run says what the job needs."
        )
    elif spec.model.endpoint is not None and (tries or hardware):
        option = "--try" if tries else "--gpu"
        problem = f"{option} is about training, and a model behind spec.model.endpoint is not trained. Leave it out."
    elif awaits_answers(spec) and tries:
        problem = (
            "--try trains on answers, and those of the teacher in spec.distillation are asked only by finetune run. "
            "Leave it out; after a run, advise knows its speed."
        )
    if problem:
        raise LocalError(problem, ExitCode.BAD_CONFIGURATION)


def check_rows(spec: FineTuneJobSpec, prepared: PrepareResult, hardware: Hardware) -> None:
    """Check that each process of the GPUs that the command names gets a training row.

    Raises:
        LocalError: There are fewer.
    """
    rows, processes = prepared.examples.get("train", 0), hardware.world.size
    if hardware.gpu is not None and not spec.task.type.row.joins and rows < processes:
        raise LocalError(
            f"--gpu: there are only {rows} training rows for {processes} {hardware.gpu}, and each needs one: name at "
            f"most {rows}, or add data.",
            ExitCode.BAD_CONFIGURATION,
        )


def check_packed_rows(costs: Costs) -> None:
    """Check that there are packed rows for all processes with one of the methods that train.

    Raises:
        LocalError: There are not.
    """
    trained = [cost for cost in costs.found if cost.candidate.trains]
    few = [cost for cost in trained if cost.packed_rows is not None]
    if few and not any(cost.fits for cost in trained):
        raise LocalError(f"{few[0].problem}.", ExitCode.BAD_CONFIGURATION)


def _is_refused(prepared: Prepared) -> bool:
    error = prepared.report.error if prepared.report and not prepared.stopped else None
    return error is not None and error.reason is Reason.BAD_CONFIGURATION


def _searched(
    wanted: FineTuneJobSpec,
    prepare: Callable[[FineTuneJobSpec, Path], Prepared],
    compute: Callable[[PrepareResult, Path], Costs],
    scratch: Path,
) -> Costs | None:
    """The costs with the data of a search, for a model that no method can train; None if it is not such a model."""
    scratch = scratch / "search"
    scratch.mkdir()
    prepared = prepare(wanted, scratch)
    if prepared.stopped:
        raise KeyboardInterrupt
    result = prepared.report.result if prepared.report else None
    if not isinstance(result, PrepareResult):
        return None
    costs = compute(result, scratch)
    # Otherwise a setting is wrong, which the failure of the first preparation names.
    return None if any(cost.fits and cost.candidate.trains for cost in costs.found) else costs


def to_prepare(found: Sequence[Candidate], spec: FineTuneJobSpec) -> list[Candidate]:
    """The candidate whose data is prepared, and a search, whose data is prepared if the model cannot be trained.

    The first is the method of the manifest, or one that is for every family of models.

    Raises:
        LocalError: The rules allow none.
    """
    allowed = [one for one in found if one.spec is not None]
    general = [one for one in allowed if one.trains and spec.task.type not in one.method.row.refused_families]
    own = [one for one in general if one.method is spec.method.type]
    usual = [one for one in general if one.method is DEFAULT_METHOD]
    if not allowed:
        raise LocalError(
            f"No method is possible for this job: {'; '.join(dict.fromkeys(one.refusal for one in found))}.",
            ExitCode.BAD_CONFIGURATION,
        )
    first = (own or usual or general or allowed)[0]
    return [first, *[one for one in allowed if not one.trains and one is not first][:1]]


def _prepared(first: Candidate, hardware: Hardware) -> FineTuneJobSpec:
    """The spec whose data is prepared. GPUs by name do not limit it to more rows than the manifest does."""
    assert first.spec is not None
    if hardware.gpu is None:
        return first.spec
    alone = first.spec.distributed.model_copy(update={"workers": 1, "gpus_per_worker": 1})
    return first.spec.model_copy(update={"distributed": alone})


def _scores(job: FineTuneJob, models: Sequence[str], scratch: Path, output: Output) -> list[ModelScore]:
    """How well the model of the job, unless it is behind an endpoint, and the given ones suit the task."""
    given = addresses(models)
    own = [job.spec.model.uri] if given and job.spec.model.uri else []
    found = []
    for number, uri in enumerate(wanted := list(dict.fromkeys([*own, *given])), 1):
        _tell(output, f"Measuring {uri}, {number} of {len(wanted)}.")
        with stops_as_interrupt():
            found.append(measured(job, uri, scratch / "model"))
    return found


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
