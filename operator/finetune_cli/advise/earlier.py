"""The throughput of earlier revisions of the job on this machine."""

from __future__ import annotations

from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage, StageConfig, TrainResult, World
from finetune_cli.advise.costs import Cost, Speed
from finetune_cli.local.jobs import LocalJob

_OF_SPEED: dict[str, Any] = {
    "model": {"uri", "revision", "quantization"},
    "task": True,
    "method": True,
    "training": {
        "batch_size",
        "max_batch_size_per_device",
        "max_sequence_length",
        "packing",
        "precision",
        "activation_checkpointing",
        "compile",
    },
    "distributed": {"zero"},
    "distillation": {"mode", "weight", "teacher"},
}
"""The fields of the spec that decide how fast a step is."""


def with_earlier(costs: list[Cost], local: LocalJob | None, world: World) -> list[Cost]:
    """The costs with the time of the training, where an earlier revision has trained in the same way.

    Args:
        costs: The costs of the methods.
        local: The job as it ran on this machine; None if it did not.
        world: The processes of the training.
    """
    if local is None:
        return costs
    known: list[tuple[FineTuneJobSpec, int, Speed]] = []
    for run in reversed(local.state.runs()):
        report = run.report()
        if run.id.stage is not Stage.TRAIN or report is None or not isinstance(report.result, TrainResult):
            continue
        try:
            config = StageConfig.model_validate_json(run.config.read_bytes())
        except (OSError, ValueError):
            continue
        if not config.spec.method.type.row.trains:
            # One process. A later attempt counts the tokens of earlier ones, but not their time.
            comparable = config.world.device is world.device and run.id.attempt == 1
        else:
            comparable = config.world == world
        if comparable:
            known.append((config.spec, run.id.revision, Speed.of(report.result, report.seconds)))
    return [_timed(cost, known) for cost in costs]


def _timed(cost: Cost, known: list[tuple[FineTuneJobSpec, int, Speed]]) -> Cost:
    spec = cost.candidate.spec
    for earlier, revision, speed in known if spec is not None else ():
        if spec is not None and _decisive(spec) == _decisive(earlier):
            return cost.with_speed(speed, f"revision {revision}")
    return cost


def _decisive(spec: FineTuneJobSpec) -> dict[str, object]:
    method = spec.method.settings
    found = spec.model_dump(mode="json", include=_OF_SPEED, exclude={"method"})
    return found | {"method": [str(spec.method.type), method and method.model_dump(mode="json")]}
