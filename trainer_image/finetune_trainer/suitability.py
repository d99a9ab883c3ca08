"""``finetune_trainer suitability``: how well a base model suits a task, measured on a few validation rows.

Standard input is a `Request` as JSON. Standard output has ``measure``, ``value``, ``higherIsBetter``, ``rows``,
``parameters`` and ``seconds``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from finetune_api.layout import TOKENIZER_DIRECTORY, split_file
from finetune_api.stage import Device, StageConfig
from finetune_trainer.certificates import trust_bundle
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.evaluate.baseline import sample
from finetune_trainer.importing import heavy_imports
from finetune_trainer.manifests import fetch_directory
from finetune_trainer.methods import method_of
from finetune_trainer.models import fetch_model
from finetune_trainer.prepare.spool import TableWriter
from finetune_trainer.prepared import read_report
from finetune_trainer.requests import respond
from finetune_trainer.splits import open_split
from finetune_trainer.stages import prepare
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.base import ScoresBase

_TRAINING_ROWS = 1000
"""Rows that a linear probe is fitted on."""


class Request(BaseModel):
    """What to measure."""

    config: StageConfig
    """The configuration of a prepare stage with the base model."""
    rows: int
    """Largest number of validation rows."""


def main(_: list[str]) -> int:
    """Answer the request on standard input; returns the exit code."""
    return respond(lambda request, scratch: suitability(Request.model_validate_json(request), scratch))


def suitability(request: Request, scratch: Path) -> dict[str, Any]:
    """The score of the base model of a request.

    Raises:
        StageFailure: As prepare and evaluate.
    """
    trust_bundle(scratch)
    config = request.config
    prepared = scratch / "prepared"
    workspace = scratch / "work"
    workspace.mkdir()
    prepare.run(StageContext(config, workspace, Reporter(None)))
    fetch_directory(config.layout.prepared, prepared)
    report = read_report(prepared)
    few = scratch / "few"
    rows = _write_few(prepared, few, request.rows, config.spec.training.seed)
    base = fetch_model(config.spec.model, scratch / "model", weights=True, revision=report.model.revision)

    with heavy_imports():
        import torch

        from finetune_trainer.evaluate.base_score import zero_shot
        from finetune_trainer.evaluate.comparison import EvaluationInputs
        from finetune_trainer.modelling.loading import set_up
        from finetune_trainer.modelling.precision import usable_hardware
        from finetune_trainer.modelling.quantizing import rounding_of

    spec = config.spec
    set_up(spec.training.seed)
    form = form_of(spec.task.type, report.family)
    device = Device.GPU if torch.cuda.is_available() else Device.CPU
    hardware = usable_hardware(spec.training.precision, device)
    started = time.monotonic()
    inputs = EvaluationInputs(
        spec=spec,
        base=base.path,
        trained=scratch / "nothing",
        prepared=few,
        data=report,
        model_class=form.model_class(report),
        method=method_of(spec.method.type),
        hardware=hardware,
        reporter=Reporter(None),
        rounding=rounding_of(spec, form, hardware.device),
    )
    found = form.base_score(inputs) if isinstance(form, ScoresBase) else zero_shot(inputs, form)
    return {
        "measure": found.measure,
        "value": found.value,
        "higherIsBetter": found.higher_is_better,
        "rows": rows,
        "parameters": report.model.parameters,
        "seconds": time.monotonic() - started,
    }


def _write_few(prepared: Path, few: Path, most: int, seed: int) -> int:
    """Write prepared data in which the validation rows take the place of the test split; returns their number.

    The test split stays unseen: it measures the tuned model. What a probe chooses, it chooses on training rows.
    """
    few.mkdir()
    (few / TOKENIZER_DIRECTORY).symlink_to(prepared / TOKENIZER_DIRECTORY)
    train, validation = open_split(prepared, "train"), open_split(prepared, "validation")
    order = np.random.default_rng(seed).permutation(len(train))
    held_out = min(most, len(train) // 4)
    parts = {
        "test": validation.take(sample(len(validation), seed, most)),
        "validation": train.take(np.sort(order[:held_out])),
        "train": train.take(np.sort(order[held_out : held_out + _TRAINING_ROWS])),
    }
    for split, table in parts.items():
        _write(table, few / split_file(split))
    return len(parts["test"])


def _write(table: pa.Table, path: Path) -> None:
    with TableWriter(path, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write(batch)
