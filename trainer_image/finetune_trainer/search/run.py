"""The train stage of PromptSearch: scores prompts on the validation split, and writes the best one."""

from __future__ import annotations

import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
from finetune_trainer.context import PartReporter, StageContext
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.host.inputs import TrainInputs, checkpoint_provenance
from finetune_trainer.json_files import write_json
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Work
from finetune_trainer.modelling.gpus import hardware_in_words, require_gpus
from finetune_trainer.modelling.loading import set_up
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.quantizing import rounding_of
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.sandbox import open_sandbox
from finetune_trainer.sandbox.programs import Sandbox
from finetune_trainer.search.asked import Asked, Spent
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


def load() -> Work:
    """The work of the train stage; the libraries are imported with this module."""
    return search


def search(context: StageContext, inputs: TrainInputs) -> Trained:
    """Search a prompt; an attempt that resumes goes on from what is scored.

    Raises:
        StageFailure: Stopped (after SIGTERM), BadConfiguration (the token budget, the room of the model or the training
            rows are too small), BadData, OutOfMemory, GpuUnavailable; with an endpoint as `endpoint.client.Client`.
    """
    config = context.config
    data = read_report(Path(inputs.prepared))
    form = form_for(config.spec, data.family)
    assert isinstance(form, PromptedForm)
    if config.world.device is Device.GPU:
        require_gpus("search", 1)
    set_up(config.spec.training.seed)
    with open_sandbox(config) if config.spec.evaluation.allow_code_execution else nullcontext() as sandbox:
        searched = _Search(context, inputs, form, data, sandbox)
        signal.signal(signal.SIGTERM, _stop)
        try:
            return searched.run()
        except _Stopped:
            done = len(searched.record.trials)
            raise StageFailure(
                Reason.STOPPED, f"stopped on request after {done} combinations; the job resumes from them"
            ) from None


class _Stopped(KeyboardInterrupt):
    """A request to stop, where no endpoint is asked; see `endpoint.stopping`.

    It may be raised inside of what explains the exceptions of a tokenizer, which lets an interrupt pass.
    """


def _stop(_number: int, _frame: object) -> None:
    raise _Stopped


@dataclass(frozen=True)
class _Texts:
    """The rows that a search reads."""

    train: Rows
    held_out: NearRows


class _Search:
    """A search, in the process of the train stage."""

    def __init__(
        self,
        context: StageContext,
        inputs: TrainInputs,
        form: PromptedForm,
        data: DataReport,
        sandbox: Sandbox | None,
    ) -> None:
        settings = context.config.spec.method.settings
        assert isinstance(settings, PromptSearchSpec)
        self._context = context
        self._inputs = inputs
        self._form = form
        self._data = data
        self._settings = settings
        self._prepared = Path(inputs.prepared)
        self._evaluation = self._evaluation_inputs(sandbox)
        self._objective = self._made_objective()
        checkpoint = inputs.checkpoint
        self.record = Record.read(Path(checkpoint.directory)) if checkpoint else self._objective.new_record()

    @property
    def _spec(self) -> FineTuneJobSpec:
        return self._context.config.spec

    def run(self) -> Trained:
        """Score prompts until the search ends, and write the best."""
        started, reporter, record = time.monotonic(), self._context.reporter, self.record
        reporter.progress("connecting to the model" if self._spec.model.endpoint else "loading the model")
        texts = self._texts()
        with self._form.asked(self._evaluation, self._alive, Spent(record.requests, record.tokens)) as asked:
            if not record.candidates:
                reporter.progress("choosing instructions and examples")
                with self._proposer(asked) as proposer:
                    propose(record, self._settings, proposer, texts.train, self._spec, on_examples=self._alive)
                record.requests = asked.spent.requests
                self._store()
            space = self._space(texts)
            self._score(space, asked)
            stored = asked.stored_as
        best = record.best
        assert best is not None
        directory = Path(self._context.config.workspace) / "trained"
        directory.mkdir(parents=True, exist_ok=True)
        more = self._form.of_prompt(load_prepared_tokenizer(self._prepared), self._data)
        write_prompt(directory, space.prompt(Searching.combination(best)), more)
        record.write(directory)
        seconds = time.monotonic() - started
        summary = _summary(record, seconds)
        write_json(directory / layout.HISTORY, {"train": [], "validation": [], "search": _curve(record)})
        write_json(directory / layout.TRAINING, summary | self._details(seconds) | stored)
        return Trained(directory, summary)

    def _proposer(self, asked: Asked) -> AbstractContextManager[Asked]:
        """The model that proposes instructions."""
        if self._settings.proposer is None:
            return nullcontext(asked)
        from finetune_trainer.search.served import served_proposer

        answers = self._context.config.job_layout.answers
        return served_proposer(self._spec, self._settings.proposer, answers, self._alive)

    def _score(self, space: Space, asked: Asked) -> None:
        record, reporter = self.record, self._context.reporter
        searching = Searching(
            record, space, self._objective, asked, self._settings, seed=self._spec.training.seed, alive=self._alive
        )
        for trial, total in searching.trials(Prompt(self._form.plain_instruction(self._spec, self._data))):
            record.requests = asked.spent.requests
            self._store()
            best = record.best.value if record.best else None
            so_far = "" if best is None else f", best {record.metric} {best:.4f} so far"
            activity = f"scoring combination {min(trial + 1, total)} of {total}{so_far}"
            reporter.progress(activity, trial, total, unit="combinations")
            if best is not None:
                reporter.send(ValidationEvent(step=trial, loss=None, metrics={record.metric: best}))

    def _store(self) -> None:
        """Let the host store the record as a checkpoint."""
        started, config, step = time.monotonic(), self._context.config, self.record.step
        directory = Path(config.workspace) / "checkpoints" / layout.checkpoint_name(step)
        self.record.write(directory)
        self._context.reporter.send(
            CheckpointEvent(
                step=step,
                directory=str(directory),
                seconds=time.monotonic() - started,
                provenance=checkpoint_provenance(config, self._data, self._inputs.data_digest, step),
                keep_also=None,
            )
        )

    def _alive(self, _: int) -> None:
        self._context.reporter.send(AliveEvent())

    def _evaluation_inputs(self, sandbox: Sandbox | None) -> EvaluationInputs:
        config = self._context.config
        hardware = Hardware.of(self._spec.training.precision, config.world.device)
        return EvaluationInputs(
            spec=self._spec,
            base=Path(self._inputs.model),
            trained=self._prepared,
            prepared=self._prepared,
            data=self._data,
            model_class=self._form.model_class(self._data),
            method=method_of(self._spec.method.type),
            hardware=hardware,
            reporter=PartReporter(self._context.reporter),
            rounding=rounding_of(self._spec, self._form, hardware.device),
            sandbox=sandbox,
            answers=config.job_layout.answers,
        )

    def _made_objective(self) -> Objective:
        rows = _sampled(open_split(self._prepared, "validation"), self._settings.examples, self._spec.training.seed)
        return Objective(rows, self._evaluation, self._form.answer_form())

    def _texts(self) -> _Texts:
        placeholders, labels = self._spec.task.type.row.placeholders, self._data.labels
        splits = {name: open_split(self._prepared, name) for name in ("train", "validation", "test")}
        train = _sampled(splits.pop("train"), _MOST_TRAINING_ROWS, self._spec.training.seed)
        held_out = [inputs for table in splits.values() for inputs in Rows.of_table(table, placeholders, labels).inputs]
        return _Texts(Rows.of_table(train, placeholders, labels), NearRows(held_out))

    def _space(self, texts: _Texts) -> Space:
        """The combinations, the same in each attempt."""
        seed, sizes, labels = self._spec.training.seed, self._settings.shots, self._data.labels
        wanted = SETS * -(-max(sizes) // max(1, len(labels)))
        pool = draw_pool(texts.train, labels, texts.held_out, wanted, seed, on_rows=self._alive)
        space = Space.of(self.record.candidates, sizes, pool, seed)
        self.record.near, self.record.looked_at = pool.near, pool.looked_at
        self.record.distinct = sum(1 for _ in space)
        return space

    def _details(self, seconds: float) -> dict[str, Any]:
        """What ``training.json`` says besides the summary."""
        config = self._context.config
        return {
            "world": config.world.model_dump(mode="json"),
            "precision": self._spec.training.precision,
            "hardware": "an endpoint" if self._spec.model.endpoint else hardware_in_words(config.world),
            "seconds": round(seconds, 1),
            "finished": datetime.now(UTC).date().isoformat(),
            "seed": self._spec.training.seed,
            "versions": library_versions(),
        }


def _sampled(table: pa.Table, most: int, seed: int) -> pa.Table:
    """At most ``most`` rows of a split, in order."""
    if len(table) <= most:
        return table
    return table.take(pa.array(np.sort(np.random.default_rng(seed).permutation(len(table))[:most])))


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


def _curve(record: Record) -> list[dict[str, Any]]:
    """The trials in order, for the curve."""
    return [
        {"trial": number, "candidate": trial.candidate, "shots": trial.shots, record.metric: trial.value}
        for number, trial in enumerate(record.trials, 1)
    ]
