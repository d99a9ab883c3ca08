"""``finetune run --dry-run``: checks data and model as prepare does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob, FineTuneJobStatus, TrainingStatus, spec_digest, training_digest
from finetune_api.layout import DATA_REPORT
from finetune_api.spec import DistillationMode, FineTuneJobSpec, Precision, Quantization
from finetune_api.stage import Device, JobIdentity, PrepareResult, Stage, StageReport, World
from finetune_api.tables.methods import Result
from finetune_api.text import clean
from finetune_cli.local import Machine, Snapshot
from finetune_cli.local.child import StageProcess
from finetune_cli.local.machine import describe_world
from finetune_cli.local.state import RunDirectory
from finetune_cli.local.trainer import trainer_command
from finetune_cli.output import Output, out, to_json, write
from finetune_cli.result import INTERRUPTED, shown_uri
from finetune_cli.screen import screen
from finetune_cli.text import method_text
from finetune_cli.view import of_run
from finetune_core.policies.previous import previous_of
from finetune_core.policies.revision import current_revision
from finetune_core.policies.world import world_of
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, RunId, StageRun
from finetune_core.summaries import size, summary

_GRACE = timedelta(seconds=10)
_DEFAULT_EPOCHS = 3.0
_OPTIMIZER_BYTES = 12
"""Bytes for each trained parameter: two moments of Adam and the weight, in FP32."""
_ROUNDED_BYTES = {
    # With an 8-bit scale for each 64 weights, and a 32-bit one for each 256 of these.
    Quantization.NF4: 0.5 + 1 / 64 + 4 / (64 * 256),
    Quantization.INT8: 1.0,
}
"""Bytes for each weight that is rounded."""


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
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        status = current_revision(job.spec, stored, Observed(), datetime.now(UTC))
        directory = RunDirectory(RunId(status.revision, Stage.PREPARE, 1), Path(scratch) / "run")
        run = _stage_run(job, status, (Path(scratch) / "output").as_uri())
        report, stopped = asyncio.run(_prepare(job, run, directory, machine, output))
        last = directory.last_log_line()
        if report and isinstance(report.result, PrepareResult):
            report = with_all_notes(report, report.result)
    world = machine.fit(world_of(Stage.TRAIN, job.spec.distributed), job.spec.training.batch_size)
    code = _exit_code(report, stopped)
    result = report.result if report else None
    if output is Output.JSON:
        found = result.model_dump(mode="json", exclude_none=True, exclude={"uri", "digest"}) if result else None
        error = report.error.model_dump(mode="json", exclude_none=True) if report and report.error else None
        memory = memory_bytes(job.spec, result, world) if isinstance(result, PrepareResult) else None
        write(to_json({"exitCode": code, "prepared": found, "memoryBytes": memory, "failure": error}))
    elif isinstance(result, PrepareResult) and report:
        write("\n".join(["", *map(clean, summary_lines(job.spec, report, result, world))]))
    elif report and report.error and not stopped:
        write(f"\nFailed in prepare ({report.error.reason}): {report.error.message}")
    else:
        write("\nStopped; nothing was stored." if stopped else f"\nprepare ended without a report: {last}")
    return code


def with_all_notes(report: StageReport, result: PrepareResult) -> StageReport:
    """The report with every note of the prepared data, which is deleted with its log: a status has the first ones."""
    data = json.loads((Path(shown_uri(result.uri)) / DATA_REPORT).read_bytes())
    return report.model_copy(update={"result": result.model_copy(update={"notes": tuple(data["notes"])})})


def summary_lines(spec: FineTuneJobSpec, report: StageReport, result: PrepareResult, world: World) -> list[str]:
    """What prepare found, and what training would need, for people."""
    training, examples = spec.training, result.examples.get("train", 0)
    epochs = training.epochs or _DEFAULT_EPOCHS
    amount = f"{training.max_steps:,} steps" if training.max_steps else f"{epochs:g} epochs"
    # Packed or joined examples are fewer rows.
    if not training.max_steps and not spec.packing and not spec.task.type.row.joins:
        amount += f", {ceil(ceil(examples / training.batch_size) * epochs):,} steps"
    memory = memory_bytes(spec, result, world)
    return [
        f"data      {summary(report)}",
        f"tokens    {result.tokens:,} in the training split",
        f"model     {spec.model.uri}, {result.parameters:,} parameters",
        *_teacher(spec, result),
        *([f"adapter   {spec.model.adapter.uri}, whose training continues"] if spec.model.adapter else []),
        f"training  {method_text(spec)}, {amount} of {training.batch_size} examples, on {describe_world(world)}",
        f"memory    about {size(memory)} in each process for {_what(spec)} come on top",
        "Nothing was stored, and the address of the output was not checked. Run the job without --dry-run.",
    ]


def memory_bytes(spec: FineTuneJobSpec, model: PrepareResult, world: World) -> int:
    """Bytes in each process for weights, also of a teacher, gradients and optimizer state, without activations and
    adapter.
    """
    partitioned = spec.distributed.zero.stage == 3
    # With weight 0, training does not load the teacher.
    loaded = model.teacher_parameters if spec.distillation and spec.distillation.weight else None
    teacher = (loaded or 0) * _width(spec, world) / (world.size if partitioned else 1)
    return round(_student_bytes(spec, model, world) + teacher)


def _student_bytes(spec: FineTuneJobSpec, model: PrepareResult, world: World) -> float:
    """Of these, those of the model that is trained."""
    width = _width(spec, world)
    stage, processes = spec.distributed.zero.stage, world.size
    parameters = model.parameters
    if model.rounded_parameters:
        # Each process first holds the whole of a rounded model, also with ZeRO-3.
        rounded = min(model.rounded_parameters, parameters)
        return round(rounded * _ROUNDED_BYTES[spec.model.quantization] + (parameters - rounded) * width)
    weights = parameters * width / (processes if stage == 3 else 1)
    if not _trains_all(spec):
        return round(weights)
    gradients = parameters * width / (processes if stage >= 2 else 1)
    optimizer = parameters * _OPTIMIZER_BYTES / (processes if stage >= 1 else 1)
    return round(weights + gradients + optimizer)


async def _prepare(
    job: FineTuneJob, run: StageRun, directory: RunDirectory, machine: Machine, output: Output
) -> tuple[StageReport | None, bool]:
    """The report of the stage, and whether a signal has stopped it."""
    changed = asyncio.Event()
    revision = directory.id.revision
    child = StageProcess(run, directory, changed.set, lambda: datetime.now(UTC))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        child.stop(_GRACE, on_request=True)

    stream = out() if output is Output.TEXT else sys.stderr
    with screen(stream, quiet=output is Output.JSON) as shown:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)
        training = TrainingStatus(revision=revision, spec_digest=training_digest(job.spec))
        status = FineTuneJobStatus(revision=revision, spec_digest=spec_digest(job.spec), training=training)
        planned = plan(job.model_copy(update={"status": status}), Observed(), datetime.now(UTC))
        started = job.model_copy(update={"status": planned.status})
        world = machine.fit(world_of(Stage.TRAIN, job.spec.distributed), job.spec.training.batch_size)
        await child.start(trainer_command("finetune run"), machine.fit(run.world, job.spec.training.batch_size))
        while child.alive:
            observed = child.observed
            status = plan(started, Observed((observed,)), datetime.now(UTC)).status
            notes = ("This is a dry run: it ends after prepare and stores nothing.",)
            shown.show(of_run(Snapshot(started.model_copy(update={"status": status}), world, observed, stopped, notes)))
            await changed.wait()
            changed.clear()
        await child.ended()
    return directory.report(), stopped


def _stage_run(job: FineTuneJob, status: FineTuneJobStatus, output: str) -> StageRun:
    """Prepare of the revision that ``status`` begins, with another output."""
    revision = status.revision
    spec = job.spec.model_copy(update={"output": job.spec.output.model_copy(update={"uri": output})})
    identity = JobIdentity(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid="dry-run",
        revision=revision,
        spec_digest=spec_digest(spec),
        training_revision=revision,
        training_digest=training_digest(spec),
    )
    world = world_of(Stage.PREPARE, spec.distributed)
    previous = previous_of(job.spec, status)
    return StageRun(RunId(revision, Stage.PREPARE, 1), identity, world, spec, previous, dry_run=True)


def _exit_code(report: StageReport | None, stopped: bool) -> int:
    if stopped:
        return INTERRUPTED
    return report.exit_code if report else ExitCode.INTERNAL


def _precision(spec: FineTuneJobSpec, world: World) -> Precision:
    chosen = spec.training.precision
    if chosen is Precision.AUTO:
        return Precision.BF16 if world.device is Device.GPU else Precision.FP32
    return chosen


def _trains_all(spec: FineTuneJobSpec) -> bool:
    return spec.method.type.row.result is Result.MODEL


def _width(spec: FineTuneJobSpec, world: World) -> int:
    """Bytes of a weight."""
    return 4 if _precision(spec, world) is Precision.FP32 else 2


def _teacher(spec: FineTuneJobSpec, model: PrepareResult) -> list[str]:
    if spec.distillation is None or model.teacher_parameters is None:
        return []
    return [f"teacher   {spec.distillation.teacher.uri}, {model.teacher_parameters:,} parameters"]


def _and_teacher(spec: FineTuneJobSpec) -> str:
    loads = spec.distillation and spec.distillation.mode is DistillationMode.LOGITS and spec.distillation.weight
    return " and those of the teacher" if loads else ""


def _what(spec: FineTuneJobSpec) -> str:
    if _trains_all(spec):
        return f"weights{_and_teacher(spec)}, gradients and optimizer state; activations"
    rounded = "" if spec.model.quantization is Quantization.NONE else f" in {spec.model.quantization}"
    whole = ", which each process first holds whole" if rounded and spec.distributed.zero.stage == 3 else ""
    others = _and_teacher(spec) or " alone"
    return (
        f"the weights of the base model{rounded}{others}{whole}; the adapter with its gradients and optimizer state, "
        "and activations,"
    )
