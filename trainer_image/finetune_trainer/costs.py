"""``finetune_trainer costs``: what training with each of several methods needs, and which do not fit the model.

Standard input is a `Request` as JSON. Standard output has
- ``candidates``, an object for each spec: ``error``, with ``packedRows`` if these are too few, or ``parameters``,
  ``rounded``, ``trained``, ``activationBytes``, ``recomputedBytes``, ``precision``, ``rows`` of the micro-batch, and
  ``steps`` and ``tokens`` of the whole training; of a search, ``steps`` are combinations, ``measuredTokens`` those of
  the evaluation, and ``chatTemplate`` says whether the model has one,
- ``data``: ``family``, ``learnedTokens`` and ``longest``,
- ``memoryBytes`` of a device; null if it is unknown,
- ``programBytes``: what a process of the training needs without a model; 0 on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision, Quantization
from finetune_api.stage import Device, World
from finetune_trainer.certificates import trust_bundle
from finetune_trainer.host.memory import free_bytes
from finetune_trainer.importing import heavy_imports
from finetune_trainer.manifests import fetch_directory
from finetune_trainer.modelling.families import decide_handling, family_of, load_families
from finetune_trainer.models import fetch_model, read_config
from finetune_trainer.prepare.family_settings import check_settings
from finetune_trainer.prepare.lengths import sequence_length
from finetune_trainer.prepared import IGNORED_LABEL, DataReport, read_report
from finetune_trainer.requests import respond
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_for, form_of

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune_api.tables.tasks import ModelFamily


class Request(BaseModel):
    """What to compute."""

    prepared: str
    """Address of the prepared data of the job, of whatever method."""
    specs: list[FineTuneJobSpec]
    """The spec of the job with each method."""
    world: World
    """The processes of the training."""
    bf16: bool | None = None
    """Whether its GPUs compute in BF16; None if they are those of this machine."""


def main(_: list[str]) -> int:
    """Answer the request on standard input; returns the exit code."""
    return respond(lambda request, scratch: costs(Request.model_validate_json(request), scratch))


def costs(request: Request, scratch: Path) -> dict[str, Any]:
    """What each spec costs.

    Raises:
        StageFailure: As `fetch_model`; what does not fit the model is in the answer.
    """
    trust_bundle(scratch)
    prepared = scratch / "prepared"
    fetch_directory(request.prepared, prepared)
    report = read_report(prepared)
    spec = request.specs[0]
    model = fetch_model(spec.model, scratch / "model", weights=False, revision=report.model.revision).path
    with heavy_imports():
        import torch

        from finetune_trainer.modelling.loading import set_up
        from finetune_trainer.train.callbacks import peak_memory
        from finetune_trainer.train.shapes import head_of

        if request.world.device is Device.CPU:
            from finetune_trainer.patches.deepspeed import import_without_compiler
            from finetune_trainer.train import gang  # noqa: F401

            import_without_compiler()
    set_up(spec.training.seed)
    program = peak_memory() if request.world.device is Device.CPU else 0
    table = open_split(prepared, "train")

    @cache
    def head(family: ModelFamily) -> tuple[str, ...]:
        return head_of(model, spec, report, form_of(spec.task.type, family))

    job = _Job(report, model, head, table, request)
    return {
        "candidates": [_cost(one, job) for one in request.specs],
        "data": {
            "family": report.family,
            "learnedTokens": _learned(table, report),
            "longest": report.splits["train"].length_quantiles["max"],
        },
        "memoryBytes": _device_memory(request, torch),
        "programBytes": program,
    }


@dataclass(frozen=True)
class _Job:
    """What all candidates have in common."""

    report: DataReport
    model: Path
    """Directory with config.json of the base model."""
    head: Callable[[ModelFamily], tuple[str, ...]]
    """The modules that are trained fully in a model of a family."""
    table: pa.Table
    """The training split."""
    request: Request


def _cost(spec: FineTuneJobSpec, job: _Job) -> dict[str, Any]:
    from finetune_trainer.modelling.precision import bf16_supported, dtype_of, resolve_precision
    from finetune_trainer.train.acceleration import may_fuse_loss
    from finetune_trainer.train.settings import plan_training
    from finetune_trainer.train.shapes import measure
    from finetune_trainer.train.trial import try_method

    config = read_config(job.model, spec.model.uri)
    # A search takes some models for another family than training does.
    family = family_of(load_families(), config, spec.method.type.row.known_families(spec.task.type))
    report, world, bf16 = job.report.model_copy(update={"family": family}), job.request.world, job.request.bf16
    if not spec.method.type.row.trains:
        return _search_cost(spec, report, job)
    task, packed = form_of(spec.task.type, family), None
    try:
        check_settings(spec, report.family)
        length = sequence_length(spec, report.family, report.model)
        handling = decide_handling(
            load_families(),
            spec,
            config,
            adapter_task=task.adapter_task,
            family=report.family,
            labels=report.labels,
            installed=version("transformers"),
        )
        report = report.model_copy(update={"handling": handling, "max_sequence_length": length})
        rounded = try_method(job.model, spec, report, task)
        bf16 = bf16_supported(world.device) if bf16 is None else bf16
        precision: Precision = resolve_precision(spec.training.precision, world.device, bf16)
        data = task.dataset(job.table, spec, report)
        packed = len(data) if spec.joins_rows else None
        plan = plan_training(spec, len(data), world.size, handling.batching)
        shapes = measure(
            job.model,
            spec,
            report,
            task=task,
            head=job.head(family),
            dtype=dtype_of(precision),
            fuses=spec.preference is None
            and spec.distillation is None
            and may_fuse_loss(spec, task, precision, on_gpu=world.device is Device.GPU),
            data=data,
            sizes=plan.sizes,
        )
    except StageFailure as failure:
        few = packed is not None and packed < world.size
        return {"error": failure.message, **({"packedRows": packed} if few else {})}
    found = asdict(shapes)
    return {
        "parameters": found["parameters"],
        "rounded": rounded,
        "trained": found["trained"],
        "activationBytes": found["activation_bytes"],
        "recomputedBytes": found["recomputed_bytes"],
        "precision": precision,
        "rows": plan.sizes.per_device,
        "steps": plan.steps,
        "tokens": round(int(np.sum(data.lengths)) * plan.steps / plan.steps_per_epoch),
    }


def _search_cost(spec: FineTuneJobSpec, report: DataReport, job: _Job) -> dict[str, Any]:
    """What a search in one process costs, which trains nothing."""
    from finetune_trainer.modelling.precision import bf16_supported, resolve_precision
    from finetune_trainer.search.costs import search_costs
    from finetune_trainer.train.trial import try_method

    device, bf16 = job.request.world.device, job.request.bf16
    try:
        check_settings(spec, report.family)
        rounded = None
        if spec.model.quantization is not Quantization.NONE:
            rounded = try_method(job.model, spec, report, form_for(spec, report.family))
        bf16 = bf16_supported(device) if bf16 is None else bf16
        precision: Precision = resolve_precision(spec.training.precision, device, bf16)
        found = search_costs(
            spec,
            report,
            job.model,
            job.table,
            precision=precision,
            device="cuda" if device is Device.GPU else "cpu",
        )
    except StageFailure as failure:
        return {"error": failure.message}
    return {
        "parameters": found.parameters,
        "rounded": rounded,
        "trained": 0,
        "activationBytes": found.peak_bytes,
        "recomputedBytes": None,
        "precision": precision,
        "rows": found.rows,
        "steps": found.combinations,
        "tokens": found.tokens,
        "measuredTokens": found.measured_tokens,
        "chatTemplate": found.chat_template,
    }


def _learned(table: pa.Table, report: DataReport) -> int:
    """Tokens of the training split that have a loss; all, where rows do not say which."""
    from pyarrow import types

    index = table.schema.get_field_index("labels")
    if index < 0 or not types.is_list(table.schema.field(index).type):
        return report.splits["train"].tokens
    return sum(int((chunk.values.to_numpy() != IGNORED_LABEL).sum()) for chunk in table["labels"].chunks)


def _device_memory(request: Request, torch: Any) -> int | None:
    """Bytes of a GPU of this machine, or free bytes of the machine for each process; None if it is unknown."""
    if request.world.device is Device.GPU:
        if request.bf16 is not None or not torch.cuda.is_available():
            return None
        return int(torch.cuda.get_device_properties(0).total_memory)
    free = min(free_bytes(), _available())
    return None if free == sys.maxsize else free // request.world.size


def _available(file: Path = Path("/proc/meminfo")) -> int:
    """Bytes that programs can still use, as Linux says; the largest number elsewhere."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return sys.maxsize
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return sys.maxsize if found is None else 1024 * int(found)
