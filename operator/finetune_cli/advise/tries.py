"""Runs a job for a few steps with each of several methods, on this machine, in a state that is removed."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.job import FineTuneJob, StageState
from finetune_api.layout import TRAINING, JobLayout
from finetune_api.spec import CheckpointSpec
from finetune_api.stage import Stage, TrainResult
from finetune_cli.advise.costs import Cost, Speed
from finetune_cli.advise.recommend import Trial
from finetune_cli.local import Executor, Machine, Snapshot, StateDirectory
from finetune_cli.output import Output, out
from finetune_cli.result import shown_uri
from finetune_cli.screen import Screen, screen
from finetune_cli.view import of_run
from finetune_core.runs import RunId

STEPS = 50
_NO_CHECKPOINT = 1_000_000
"""More steps than a trial has."""


class TrialsStopped(Exception):
    """A signal has stopped the trials."""


def try_methods(
    job: FineTuneJob, costs: Sequence[Cost], scratch: Path, machine: Machine, output: Output
) -> list[Trial]:
    """Train with each method for `STEPS` steps, or as many as the job has.

    Args:
        job: The job of the manifest.
        costs: The methods.
        scratch: Directory for state and results.
        machine: The hardware of this machine.
        output: Text shows the stages on standard output, JSON on standard error if that is a terminal.

    Raises:
        TrialsStopped: After Ctrl-C or SIGTERM.
        LocalError: The state cannot be written.
    """
    found = []
    for number, cost in enumerate(costs, 1):
        directory = scratch / f"try-{number}"
        note = f"Trying {cost.candidate.name}, {number} of {len(costs)}, for {steps_of(cost)} steps; nothing is kept."
        found.append(_try(job, cost, directory, machine, output=output, note=note))
        shutil.rmtree(directory, ignore_errors=True)
    return found


def steps_of(cost: Cost) -> int:
    """The steps of a trial."""
    return min(STEPS, cost.steps)


def trial_job(job: FineTuneJob, cost: Cost, output: str) -> FineTuneJob:
    """The job of a trial: few steps, one validation after the last, and no checkpoint."""
    spec = cost.candidate.spec
    assert spec is not None
    training = spec.training.model_copy(
        update={
            "epochs": None,
            "max_steps": steps_of(cost),
            "evaluate_every_steps": steps_of(cost),
            "early_stopping": None,
            "max_batch_size_per_device": cost.rows or spec.training.max_batch_size_per_device,
            "checkpoint": CheckpointSpec(every_steps=_NO_CHECKPOINT),
        }
    )
    # What validation generates is for the curve, and takes time.
    evaluation = spec.evaluation.model_copy(update={"during_training": None})
    changes = {
        "training": training,
        "evaluation": evaluation,
        "output": spec.output.model_copy(update={"uri": output}),
        "resilience": spec.resilience.model_copy(update={"max_restarts": 0}),
        "suspend": False,
    }
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _try(job: FineTuneJob, cost: Cost, directory: Path, machine: Machine, *, output: Output, note: str) -> Trial:
    wanted = trial_job(job, cost, (directory / "output").as_uri())
    stream = out() if output is Output.TEXT else sys.stderr
    with (
        StateDirectory.locked(directory / "state") as state,
        screen(stream, quiet=output is Output.JSON) as shown,
    ):
        ended, stopped = asyncio.run(_trained(state, wanted, machine, shown, note))
    if stopped:
        raise TrialsStopped
    report = state.run(RunId(ended.status.revision, Stage.TRAIN, 1)).report()
    if report is None or not isinstance(report.result, TrainResult):
        failure = ended.status.failure
        problem = failure.message if failure else "the train stage ended without a report"
        return Trial(cost.candidate.name, steps_of(cost), None, 0.0, Speed(0.0, 0.0), None, 0, problem)
    result = report.result
    return Trial(
        cost.candidate.name,
        result.steps,
        result.validation_loss,
        report.seconds,
        Speed.of(result, report.seconds),
        _peak(ended),
        result.trainable_parameters,
    )


def _peak(job: FineTuneJob) -> int | None:
    """The peak memory that training.json has of rank 0."""
    meta = job.metadata
    trained = JobLayout.of(job.spec.output.uri, meta.namespace, meta.name).revision(job.status.revision).trained
    document: dict[str, Any] = json.loads((Path(shown_uri(trained)) / TRAINING).read_bytes())
    return document.get("peakMemoryBytes")


async def _trained(
    state: StateDirectory, job: FineTuneJob, machine: Machine, shown: Screen, note: str
) -> tuple[FineTuneJob, bool]:
    """The job after its train stage, or its failure; and whether a signal has stopped it before."""
    signals = 0

    def see(snapshot: Snapshot) -> None:
        trains = next((one for one in snapshot.job.status.stages if one.name is Stage.TRAIN), None)
        if trains is not None and trains.state is StageState.SUCCEEDED:
            executor.request_stop()
        else:
            shown.show(of_run(snapshot, (note,)))

    def stop() -> None:
        nonlocal signals
        signals += 1
        executor.request_stop(at_once=signals > 1)

    executor = Executor(state, job, see, machine=machine)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    return await executor.run(), signals > 0
