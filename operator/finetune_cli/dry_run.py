"""``finetune run --dry-run``: checks data and model as prepare does, and leaves nothing behind."""

from __future__ import annotations

import json
import tempfile
from math import ceil
from pathlib import Path

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.layout import DATA_REPORT
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import DistillationMode, FineTuneJobSpec, Quantization
from finetune_api.stage import PrepareResult, Stage, StageReport, World
from finetune_api.text import clean
from finetune_cli.local import Machine
from finetune_cli.local.machine import describe_world
from finetune_cli.memory import memory_bytes, teacher_bytes, trains_all
from finetune_cli.output import Output, to_json, write
from finetune_cli.result import INTERRUPTED, shown_uri
from finetune_cli.scratch import Prepared, prepare_in
from finetune_cli.text import method_text
from finetune_core.policies.world import world_of
from finetune_core.summaries import size, summary

_DEFAULT_EPOCHS = 3.0


def dry_run(job: FineTuneJob, stored: FineTuneJobStatus, output: Output) -> int:
    """Run prepare with a scratch directory as output, and print what it found; returns the exit code.

    Args:
        job: The job of the manifest.
        stored: The status of the job on this machine; the default if it did not run here.
        output: Text or JSON.

    Raises:
        LocalError: The trainer is not installed, or the scratch directory is not writable.
    """
    machine = Machine.detect()
    note = "This is a dry run: it ends after prepare and stores nothing."
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        prepared = prepare_in(Path(scratch), job, stored, machine, output=output, note=note)
        report = prepared.report
        if report and isinstance(report.result, PrepareResult):
            report = with_all_notes(report, report.result)
    world = machine.fit(world_of(Stage.TRAIN, job.spec), job.spec.training.batch_size)
    result = report.result if report else None
    if not isinstance(result, PrepareResult) or report is None:
        return report_failure(prepared, output)
    if output is Output.JSON:
        found = result.model_dump(mode="json", exclude_none=True, exclude={"uri", "digest"})
        memory = None if job.spec.model.endpoint else memory_bytes(job.spec, result, world)
        write(to_json({"exitCode": ExitCode.DONE, "prepared": found, "memoryBytes": memory, "failure": None}))
    else:
        write("\n".join(["", *map(clean, summary_lines(job.spec, report, result, world))]))
    return ExitCode.DONE


def report_failure(prepared: Prepared, output: Output) -> int:
    """Print why the prepare stage of a command that stores nothing has no result; returns the exit code."""
    report, stopped = prepared.report, prepared.stopped
    code = _exit_code(report, stopped)
    if output is Output.JSON:
        error = report.error.model_dump(mode="json", exclude_none=True) if report and report.error else None
        write(to_json({"exitCode": code, "prepared": None, "memoryBytes": None, "failure": error}))
    elif report and report.error and not stopped:
        write(f"\nFailed in prepare ({report.error.reason}): {report.error.message}")
    else:
        last = prepared.last_line
        write("\nStopped; nothing was stored." if stopped else f"\nprepare ended without a report: {last}")
    return code


def with_all_notes(report: StageReport, result: PrepareResult) -> StageReport:
    """The report with every note of the prepared data, which is deleted with its log: a status has the first ones."""
    data = json.loads((Path(shown_uri(result.uri)) / DATA_REPORT).read_bytes())
    return report.model_copy(update={"result": result.model_copy(update={"notes": tuple(data["notes"])})})


def summary_lines(spec: FineTuneJobSpec, report: StageReport, result: PrepareResult, world: World) -> list[str]:
    """What prepare found, and what training or a search would need, for people."""
    # The parameters of a model behind an endpoint are not known.
    parameters = "" if spec.model.endpoint else f", {result.parameters:,} parameters"
    return [
        f"data      {summary(report)}",
        f"tokens    {result.tokens:,} in the training split",
        f"model     {spec.model.address}{parameters}",
        *([f"adapter   {spec.model.adapter.uri}, whose training continues"] if spec.model.adapter else []),
        *_teacher(spec, result, world),
        *_work(spec, result, world),
        "Nothing was stored, and the address of the output was not checked. Run the job without --dry-run.",
    ]


def _work(spec: FineTuneJobSpec, result: PrepareResult, world: World) -> list[str]:
    """How much the train stage would do, and the memory that it would need."""
    search = spec.method.settings
    if isinstance(search, PromptSearchSpec):
        return _search(spec, search, result, world)
    training, examples = spec.training, result.examples.get("train", 0)
    epochs = training.epochs or _DEFAULT_EPOCHS
    amount = f"{training.max_steps:,} steps" if training.max_steps else f"{epochs:g} epochs"
    # Packed or joined examples are fewer rows.
    if not training.max_steps and not spec.joins_rows:
        amount += f", {ceil(ceil(examples / training.batch_size) * epochs):,} steps"
    memory = memory_bytes(spec, result, world)
    return [
        f"training  {method_text(spec)}, {amount}, {_batch(spec)}, on {describe_world(world)}",
        f"memory    about {size(memory)} in each process for {_what(spec)} come on top",
    ]


def _batch(spec: FineTuneJobSpec) -> str:
    """What a step trains on."""
    kind = "rows of several examples" if spec.packing else "rows of joined texts" if spec.joins_rows else "examples"
    return f"{spec.training.batch_size:,} {kind} in each"


def _search(spec: FineTuneJobSpec, search: PromptSearchSpec, result: PrepareResult, world: World) -> list[str]:
    """The same of a search, which trains nothing."""
    examples = min(search.examples, result.examples.get("validation", 0))
    trials = "1 combination" if search.trials == 1 else f"{search.trials:,} combinations"
    budget = f"; at most {search.max_tokens:,} tokens in all" if search.max_tokens else ""
    place = "with the endpoint" if spec.model.endpoint else f"on {describe_world(world)}"
    lines = [
        f"search    {method_text(spec)}, which trains nothing: at most {trials}, each scored on {examples:,} "
        f"validation examples, {place}{budget}"
    ]
    if spec.model.endpoint:
        return lines
    memory = size(memory_bytes(spec, result, world))
    return [*lines, f"memory    about {memory} for the weights of the model; activations come on top"]


def _exit_code(report: StageReport | None, stopped: bool) -> int:
    if stopped:
        return INTERRUPTED
    return report.exit_code if report else ExitCode.INTERNAL


def _teacher(spec: FineTuneJobSpec, model: PrepareResult, world: World) -> list[str]:
    if spec.distillation is None or model.teacher_parameters is None:
        return []
    line = f"teacher   {spec.distillation.teacher.uri}, {model.teacher_parameters:,} parameters"
    if spec.distillation.generating_teacher:
        one = World(workers=1, processes_per_worker=1, device=world.device)
        line += f": about {size(teacher_bytes(spec, model, one))} on {describe_world(one)} while it answers"
    return [line]


def _and_teacher(spec: FineTuneJobSpec) -> str:
    loads = spec.distillation and spec.distillation.mode is DistillationMode.LOGITS and spec.distillation.weight
    return " and those of the teacher" if loads else ""


def _what(spec: FineTuneJobSpec) -> str:
    if trains_all(spec):
        return f"weights{_and_teacher(spec)}, gradients and optimizer state; activations"
    rounded = "" if spec.model.quantization is Quantization.NONE else f" in {spec.model.quantization}"
    whole = ", which each process first holds whole" if rounded and spec.distributed.zero.stage == 3 else ""
    others = _and_teacher(spec) or " alone"
    return (
        f"the weights of the base model{rounded}{others}{whole}; the adapter with its gradients and optimizer state, "
        "and activations,"
    )
