"""The train stage of PromptSearch: scores prompts on the validation split, and writes the best one."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api import layout
from finetune_api.events import AliveEvent, CheckpointEvent, ValidationEvent
from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.host.inputs import TrainInputs, checkpoint_provenance
from finetune_trainer.json_files import write_json
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.gpus import hardware_in_words, require_gpus
from finetune_trainer.modelling.loading import set_up
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.search.form import PromptedForm
from finetune_trainer.search.near import NearRows
from finetune_trainer.search.objective import Objective
from finetune_trainer.search.prompt import Prompt, Rows, write_prompt
from finetune_trainer.search.proposing import propose
from finetune_trainer.search.record import End, Record
from finetune_trainer.search.searching import Searching
from finetune_trainer.search.shots import SETS, draw_pool
from finetune_trainer.search.space import Space
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_for
from finetune_trainer.train.export import library_versions
from finetune_trainer.trained import Trained

_MOST_TRAINING_ROWS = 20000
"""Training rows that examples are drawn from, a random part of more."""


def search(context: StageContext, inputs: TrainInputs) -> Trained:
    """Search a prompt; an attempt that resumes goes on from what is scored.

    Raises:
        StageFailure: Stopped (after SIGTERM), BadConfiguration (the token budget, the room of the model or the training
            rows are too small), BadData, OutOfMemory, GpuUnavailable.
    """
    config, reporter = context.config, context.reporter
    if config.world.device is Device.GPU:
        require_gpus("search", 1)
    prepared = Path(inputs.prepared)
    data, spec = read_report(prepared), config.spec
    settings = spec.method.settings
    form = form_for(spec, data.family)
    assert isinstance(settings, PromptSearchSpec)
    assert isinstance(form, PromptedForm)
    set_up(spec.training.seed)
    started = time.monotonic()
    reporter.progress("loading the model")
    asked = form.asked(
        EvaluationInputs(
            spec=spec,
            base=Path(inputs.model),
            trained=prepared,
            prepared=prepared,
            data=data,
            model_class=form.model_class(data),
            method=method_of(spec.method.type),
            hardware=Hardware.of(spec.training.precision, config.world.device),
            reporter=reporter,
        )
    )
    validation = _sampled(open_split(prepared, "validation"), settings.examples, spec.training.seed)
    objective = Objective(validation, spec, data, form.answer_form())
    record = Record.read(Path(inputs.checkpoint.directory)) if inputs.checkpoint else None
    if record is None:
        record = Record(
            metric=objective.metric, maximize=objective.metric.higher_is_better, examples=len(objective.rows)
        )

    def stored(record: Record) -> None:
        """Let the host store the record as a checkpoint."""
        since = time.monotonic()
        directory = Path(config.workspace) / "checkpoints" / layout.checkpoint_name(record.step)
        record.write(directory)
        reporter.send(
            CheckpointEvent(
                step=record.step,
                directory=str(directory),
                seconds=time.monotonic() - since,
                provenance=checkpoint_provenance(config, data, inputs.data_digest, record.step),
                keep_also=None,
            )
        )

    _stop_on_request(record)
    rows = Rows.of_table(
        _sampled(open_split(prepared, "train"), _MOST_TRAINING_ROWS, spec.training.seed),
        spec.task.type.row.placeholders,
        data.labels,
    )
    if not record.candidates:
        reporter.progress("choosing instructions and examples")
        propose(record, settings, asked, rows, spec)
    space = _space(record, settings, rows, prepared, spec, data)
    record.distinct = sum(1 for _ in space)
    plain = Prompt(form.plain_instruction(spec, data))

    def alive(_: int) -> None:
        reporter.send(AliveEvent())

    searching = Searching(record, space, objective, asked, settings, seed=spec.training.seed, alive=alive)
    for trial, total in searching.trials(plain):
        best = record.best
        stored(record)
        reporter.progress(
            f"scoring combination {min(trial + 1, total)} of {total}"
            + (f", best {record.metric} {best.value:.4f} so far" if best and best.value is not None else ""),
            trial,
            total,
            unit="combinations",
        )
        if best and best.value is not None:
            reporter.send(ValidationEvent(step=trial, loss=None, metrics={record.metric: best.value}))
    seconds = time.monotonic() - started
    best = record.best
    assert best is not None
    directory = Path(config.workspace) / "trained"
    directory.mkdir(parents=True, exist_ok=True)
    write_prompt(directory, space.prompt(Searching.combination(best)), form.of_prompt(load_prepared_tokenizer(prepared), data))
    record.write(directory)
    summary = _summary(record, seconds)
    write_json(directory / layout.HISTORY, {"train": [], "validation": [], "search": _curve(record)})
    write_json(directory / layout.TRAINING, summary | _details(context, seconds))
    return Trained(directory, summary)


def _space(
    record: Record,
    settings: PromptSearchSpec,
    rows: Rows,
    prepared: Path,
    spec: FineTuneJobSpec,
    data: DataReport,
) -> Space:
    held_out = [
        inputs
        for split in ("validation", "test")
        for inputs in Rows.of_table(open_split(prepared, split), spec.task.type.row.placeholders, data.labels).inputs
    ]
    seed, largest = spec.training.seed, max(settings.shots)
    wanted = SETS * -(-largest // max(1, len(data.labels)))
    pool = draw_pool(rows, data.labels, NearRows(held_out), wanted, seed)
    record.near = pool.near
    return Space.of(record.candidates, settings.shots, rows, data.labels, pool, seed)


def _sampled(table: pa.Table, most: int, seed: int) -> pa.Table:
    """At most ``most`` rows of a split, in order."""
    if len(table) <= most:
        return table
    return table.take(pa.array(np.sort(np.random.default_rng(seed).permutation(len(table))[:most])))


def _stop_on_request(record: Record) -> None:
    """Stop at SIGTERM: everything that is scored is stored already."""

    def stop(_number: int, _frame: object) -> None:
        raise StageFailure(
            Reason.STOPPED,
            f"stopped on request after {len(record.trials)} combinations; the job resumes from them",
        )

    signal.signal(signal.SIGTERM, stop)


def _summary(record: Record, seconds: float) -> dict[str, Any]:
    """The fields of TrainResult in camelCase, except uri and digest."""
    best = record.best
    return {
        "steps": len(record.trials),
        "epochs": 0.0,
        "tokens": record.tokens,
        "tokensPerSecond": record.tokens / seconds if seconds else 0.0,
        "stoppedEarly": record.end is End.BUDGET,
        "trainableParameters": 0,
        "search": {
            "metric": record.metric,
            "best": best.value if best else None,
            "plain": record.plain.value if record.plain else None,
            "distinct": record.distinct,
        },
    }


def _details(context: StageContext, seconds: float) -> dict[str, Any]:
    """What ``training.json`` says besides the summary."""
    config = context.config
    return {
        "world": config.world.model_dump(mode="json"),
        "precision": config.spec.training.precision,
        "hardware": hardware_in_words(config.world),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).date().isoformat(),
        "seed": config.spec.training.seed,
        "versions": library_versions(),
    }


def _curve(record: Record) -> list[dict[str, Any]]:
    """The trials in order, for the curve."""
    return [
        {"trial": number, "candidate": trial.candidate, "shots": trial.shots, record.metric: trial.value}
        for number, trial in enumerate(record.trials, 1)
    ]
