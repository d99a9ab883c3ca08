"""What each method costs: the answer of the trainer, and the memory that follows from it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.failures import ExitCode
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.stage import Device, PrepareResult, TrainResult, World
from finetune_api.tables.gpus import Gpu
from finetune_cli.advise.candidates import Candidate
from finetune_cli.advise.hardware import Hardware
from finetune_cli.local.errors import LocalError
from finetune_cli.local.trainer import ask
from finetune_cli.memory import Sizes, training_bytes
from finetune_core.summaries import size

USABLE = 0.92
"""Share of the memory that training may use; the rest is for communication and fragments. As in the trainer."""
_RESIDENT_ON_CPUS = 1.25
"""Bytes of memory for each byte of activations on CPUs, where the C library keeps a part of what is freed."""


@dataclass(frozen=True)
class DataFacts:
    """What the training split consists of."""

    rows: int
    tokens: int
    learned_tokens: int
    """Tokens that have a loss."""
    labels: int | None
    """TextClassification: number of labels."""
    family: str
    """Family of the base model."""
    longest: int
    """Tokens of the longest row."""
    validation_rows: int = 0
    questions: int = 0
    """Rows of all splits."""


@dataclass(frozen=True)
class Speed:
    """How fast a train stage was."""

    tokens_per_second: float
    overhead: float
    """Seconds besides the steps: the start, validation and checkpoints."""

    @classmethod
    def of(cls, result: TrainResult, seconds: float) -> Speed:
        """The speed of a train stage that has taken ``seconds``."""
        steps = result.tokens / result.tokens_per_second if result.tokens_per_second else 0.0
        return cls(result.tokens_per_second, max(0.0, seconds - steps))


@dataclass(frozen=True)
class Cost:
    """A method that the rules allow, and what it costs."""

    candidate: Candidate
    parameters: int = 0
    """Of the base model with the head of the task."""
    trained: int = 0
    memory: int | None = None
    """Estimated peak of each process, in bytes; None if the model cannot run without weights."""
    recomputes: bool = False
    """Whether activations are recomputed, because they do not fit otherwise."""
    rows: int | None = None
    """The training.maxBatchSizePerDevice that is needed; None for that of the job."""
    steps: int = 0
    """Of the whole training; of a search, the combinations to score."""
    tokens: int = 0
    """Of the whole training; of a search, about what it reads and writes."""
    chat_template: bool | None = None
    """Of a search: whether the model has a chat template; None if it is not asked in conversations."""
    seconds: float | None = None
    """Of the whole train stage; None if no throughput was measured."""
    measured_in: str = ""
    """Where the throughput comes from."""
    problem: str = ""
    """Why the method does not fit the model or the memory; empty if it does."""
    packed_rows: int | None = None
    """The rows of training, where these are too few for the processes."""

    @property
    def fits(self) -> bool:
        return not self.problem

    @property
    def share(self) -> float:
        """Trained parameters, compared with those of the base model."""
        return self.trained / self.parameters if self.parameters else 0.0

    def with_speed(self, speed: Speed, measured_in: str) -> Cost:
        """The same with the time that the whole train stage takes at a measured speed."""
        if speed.tokens_per_second <= 0:
            return self
        seconds = speed.overhead + self.tokens / speed.tokens_per_second
        return replace(self, seconds=seconds, measured_in=measured_in)


@dataclass(frozen=True)
class Costs:
    """The answer for all methods."""

    data: DataFacts
    limit: int | None
    """Bytes of memory that a process has; None if unknown."""
    found: tuple[Cost, ...]


def costs_of(candidates: Sequence[Candidate], prepared: PrepareResult, hardware: Hardware, scratch: Path) -> Costs:
    """What the candidates that the rules allow cost.

    Args:
        candidates: At least one of them is allowed.
        prepared: The prepared data of the job.
        hardware: What the training would run on.
        scratch: Directory for the files of the trainer.

    Raises:
        LocalError: The trainer cannot read the data or the model.
    """
    allowed = [one for one in candidates if one.spec is not None]
    specs = [one.spec for one in allowed if one.spec is not None]
    answer = _answer(specs, prepared, hardware, scratch)
    limit = hardware.gpu.row.memory_bytes if hardware.gpu else answer["memoryBytes"]
    found = [
        cost_of(
            one,
            spec,
            raw,
            world=hardware.world,
            gpu=hardware.gpu,
            limit=limit,
            program=answer["programBytes"],
            teacher=prepared.teacher_parameters,
        )
        for one, spec, raw in zip(allowed, specs, answer["candidates"], strict=True)
    ]
    data = answer["data"]
    facts = DataFacts(
        rows=prepared.examples.get("train", 0),
        tokens=prepared.tokens,
        learned_tokens=data["learnedTokens"],
        labels=prepared.labels,
        family=data["family"],
        longest=data["longest"],
        validation_rows=prepared.examples.get("validation", 0),
        questions=sum(prepared.examples.values()),
    )
    return Costs(facts, limit, tuple(found))


def cost_of(
    candidate: Candidate,
    spec: FineTuneJobSpec,
    raw: Mapping[str, Any],
    *,
    world: World,
    limit: int | None,
    program: int,
    gpu: Gpu | None = None,
    teacher: int | None = None,
) -> Cost:
    """The cost of a candidate.

    Args:
        candidate: The candidate.
        spec: Its spec.
        raw: The trainer's answer about it.
        world: The processes of the training.
        limit: Bytes of memory that a process has; None if unknown.
        program: Bytes of a process without a model.
        gpu: The GPUs that the command names, which decide the processes.
        teacher: Parameters of a teacher that each process loads; None without one.
    """
    if "error" in raw:
        packed = raw.get("packedRows")
        problem = (
            str(raw["error"]) if gpu is None or packed is None else _few_packed_rows(spec, packed, world.size, gpu)
        )
        return Cost(candidate, problem=problem, packed_rows=packed)
    if not candidate.trains:  # Its process is alone, and has the memory of all of them on CPUs.
        if limit is not None and world.device is Device.CPU:
            limit *= world.size
        world = World(workers=1, processes_per_worker=1, device=world.device)
    sizes = Sizes(raw["parameters"], raw["rounded"], raw["trained"], teacher)
    precision = Precision(raw["precision"])
    state = program + training_bytes(spec, sizes, precision, world)
    ways = _ways(spec, _resident(raw, world), world)
    usable = sys.maxsize if limit is None else USABLE * limit
    way = next((one for one in ways if state + one.activations <= usable), ways[-1])
    least = state + way.activations
    problem = ""
    if limit is not None and least > usable:
        problem = f"it needs about {size(least)} of memory in each process, which has {size(limit)}"
        whole = training_bytes(_partitioned(spec), sizes, precision, world) + program + way.activations
        may_partition = spec.distributed.zero.stage < 3 and not spec.method.type.row.never_partitioned
        if may_partition and whole <= usable:
            problem += f"; with distributed.zero.stage 3 it would need about {size(whole)}"
    return Cost(
        candidate,
        sizes.parameters,
        sizes.trained,
        None if raw["activationBytes"] is None else least,
        way.recomputes,
        None if way.rows == raw["rows"] else way.rows,
        raw["steps"],
        raw["tokens"],
        raw.get("chatTemplate"),
        problem=problem,
    )


def _few_packed_rows(spec: FineTuneJobSpec, rows: int, processes: int, gpu: Gpu) -> str:
    """Why there are too few rows for the GPUs that the command names."""
    more = "lower training.maxSequenceLength" if spec.task.type.row.joins else "set training.packing to false"
    return (
        f"--gpu: the training rows are joined to only {rows} packed rows for {processes} {gpu}, and each needs one: "
        f"name at most {rows}, {more}, or add data"
    )


def _answer(
    specs: Sequence[FineTuneJobSpec], prepared: PrepareResult, hardware: Hardware, scratch: Path
) -> dict[str, Any]:
    """The answer of the trainer about specs."""
    request = {
        "prepared": prepared.uri,
        "specs": [spec.model_dump(mode="json", exclude_unset=True) for spec in specs],
        "world": hardware.world.model_dump(mode="json"),
        "bf16": hardware.gpu.row.bf16 if hardware.gpu else None,
    }
    return ask("advise", request, question="costs", scratch=scratch)


def asked_tokens(spec: FineTuneJobSpec, prepared: PrepareResult, hardware: Hardware, scratch: Path) -> tuple[int, int]:
    """About how many tokens a model behind an endpoint reads and writes, in the search and in the evaluation.

    Raises:
        LocalError: The trainer cannot read the data, or the search is not for it.
    """
    (found,) = _answer([spec], prepared, hardware, scratch)["candidates"]
    if "error" in found:
        raise LocalError(found["error"], ExitCode.BAD_CONFIGURATION)
    return found["tokens"], found["measuredTokens"]


def _resident(raw: Mapping[str, Any], world: World) -> dict[str, Any]:
    """The answer of the trainer with the memory that its activations really take."""
    share = _RESIDENT_ON_CPUS if world.device is Device.CPU else 1.0
    activations = {
        name: None if raw[name] is None else round(share * raw[name]) for name in ("activationBytes", "recomputedBytes")
    }
    return {**raw, **activations}


@dataclass(frozen=True)
class _Way:
    """A way to compute a step, which changes its memory and its time, not its result."""

    activations: int
    """Bytes that its forward pass keeps."""
    rows: int
    """Rows of a micro-batch."""
    recomputes: bool


def _ways(spec: FineTuneJobSpec, raw: Mapping[str, Any], world: World) -> list[_Way]:
    """The ways that the job leaves open, the fastest first: smaller micro-batches, and recomputed activations."""
    rows, kept, recomputed = raw["rows"], raw["activationBytes"], raw["recomputedBytes"]
    if kept is None:
        return [_Way(0, rows, recomputes=False)]
    if not spec.method.type.row.trains:  # After an out-of-memory error, its batches are halved.
        return [_Way(kept, rows, recomputes=False), _Way(-(-kept // rows), rows, recomputes=False)]
    wants = spec.training.activation_checkpointing
    # As the trainer decides before the first step; see training.activationCheckpointing.
    may = wants is None and world.device is Device.GPU and spec.distributed.zero.stage < 3 and not spec.preference
    open_rows = [rows]
    if "max_batch_size_per_device" not in spec.training.model_fields_set:
        open_rows += [rows // 2**halving for halving in range(1, rows.bit_length())]
    if recomputed is None or not (wants or may):
        return [_Way(kept * few // rows, few, recomputes=False) for few in open_rows]
    inputs = [_Way(recomputed * few // rows, few, recomputes=True) for few in open_rows]
    return inputs if wants else [_Way(kept, rows, recomputes=False), *inputs]


def _partitioned(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """``spec`` with ZeRO stage 3."""
    zero = spec.distributed.zero.model_copy(update={"stage": 3})
    return spec.model_copy(update={"distributed": spec.distributed.model_copy(update={"zero": zero})})
