"""Inputs and result of the comparison of the tuned model with its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from finetune_api.evaluation import BaselineKind, MetricResult, SpanDecoding
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.slices import Measure
from finetune_trainer.methods.base import Loader, Method
from finetune_trainer.modelling.loading import LoadedModel, attention_settings, load
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.quantizing import Rounding
from finetune_trainer.models import LocalModel
from finetune_trainer.prepared import DataReport
from finetune_trainer.row_hashes import LearnedRows
from finetune_trainer.sandbox.programs import Sandbox
from finetune_trainer.tasks.base import ModelClass

SPLIT = "test"


class Tuned(Protocol):
    """What loads a model that was trained before; a part of `Method`."""

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        """See `Method.tuned`."""


@dataclass(frozen=True)
class PreviousModel:
    """A model that was published before, on local disk."""

    directory: Path
    """Directory of its adapter or its weights."""
    method: Tuned
    """The method that trained it."""
    details: Mapping[str, Any]
    """Its address and digest."""
    learned: LearnedRows
    """The rows that it was trained on."""
    virtual_tokens: int
    """Learned tokens that it has before each text."""


@dataclass(frozen=True)
class EvaluationInputs:
    """Inputs of the evaluation of every task."""

    spec: FineTuneJobSpec
    base: Path
    """Directory of the base model."""
    trained: Path
    """Directory of the adapter or the tuned model."""
    prepared: Path
    """Directory of the prepared data."""
    data: DataReport
    model_class: ModelClass
    """The model class of the task."""
    method: Method
    hardware: Hardware
    reporter: Reporter
    rounding: Rounding | None = None
    """How the base model is stored, if it is rounded."""
    sandbox: Sandbox | None = None
    """Runs generated programs; None if the job runs none."""
    start: Path | None = None
    """Directory of the adapter that training continued from; None if it started from the base model."""
    previous: PreviousModel | None = None
    """The baseline, if it is a model that was published before."""
    teacher: LocalModel | None = None
    """The teacher, if the job loads one."""
    tuned_output: Any = None
    """What the tuned model has given in an earlier comparison, so that it does not run again: the `tuned_output` of
    that `Comparison`; None to run it.
    """

    answers: str | None = None
    """Directory that keeps the answers of an endpoint; None if they are not kept."""

    @property
    def baseline_kind(self) -> BaselineKind:
        """The baseline in `models`."""
        return BaselineKind.BASE_MODEL if self.previous is None else BaselineKind.PREVIOUS

    @property
    def reference_kind(self) -> BaselineKind:
        """The model that training started from."""
        return BaselineKind.BASE_MODEL if self.start is None else BaselineKind.PREVIOUS

    def models(self) -> Iterator[tuple[str, Any]]:
        """Yield ``("baseline", model)`` and then, unless `tuned_output` is known, ``("tuned", model)``.

        A yielded model is valid only until the next one.

        Raises:
            StageFailure: As `Method.tuned`.
        """
        return islice(self._models(), 2 if self.tuned_output is None else 1)

    def _models(self) -> Iterator[tuple[str, Any]]:
        if self.previous is None:
            yield from self.method.baseline_and_tuned(self.load, self.base, self.trained)
            return
        yield "baseline", self.previous_model()
        yield "tuned", self.method.tuned(self.load, self.base, self.trained)

    def previous_model(self) -> Any:
        """The baseline in `previous`, loaded."""
        assert self.previous is not None
        return self.previous.method.tuned(self.load, self.base, self.previous.directory)

    def reference(self) -> Any | None:
        """The model that training started from; None if it is the baseline in `models`."""
        if self.start is None:
            return None if self.previous is None else self.load(self.base).complete()
        if self.previous is not None and self.previous.directory == self.start:
            return None
        return self.method.tuned(self.load, self.base, self.start)

    def load(self, directory: Path, **settings: Any) -> LoadedModel:
        """Load the model in ``directory`` with the model class of the task, for evaluation."""
        chosen = self.model_class
        new_head = chosen.new_head and self._is_base(directory)
        return self.load_as(chosen.auto_class, directory, new_head=new_head, **chosen.settings, **settings)

    def _is_base(self, directory: Path) -> bool:
        """Whether a directory has the base model. An artifact with all weights is its own base when it is used."""
        return directory == self.base and directory != self.trained

    def load_as(self, auto_class: Any, directory: Path, **settings: Any) -> LoadedModel:
        """Load the model in ``directory`` with ``auto_class``, for evaluation."""
        name = f"model.uri {self.spec.model.uri}" if self._is_base(directory) else "The trained model"
        settings |= attention_settings(self.data.handling)
        loaded = load(auto_class, directory, self.hardware.dtype, name, rounding=self.rounding, **settings)
        return loaded.placed(self.hardware)


@dataclass(frozen=True)
class Comparison:
    """Result of baseline and tuned model on the test split."""

    baseline: BaselineKind
    details: dict[str, Any]
    """Details of the baseline, for report and provenance."""
    metrics: tuple[MetricResult, ...]
    measure: Measure
    """Measures a part of the test split."""
    predictions: list[dict[str, Any]]
    """One dict per test example, in order: source, text or prompt, label or reference, baseline, tuned."""
    tuned_output: Any = None
    """What the tuned model has given, in a form of the task; see `EvaluationInputs.tuned_output`."""
    tables: dict[str, Any] = field(default_factory=dict)
    """Measurements by label, by name of the table, for evaluation.json and the report."""
    span_decoding: SpanDecoding | None = None
    """QuestionAnswering with an encoder: how answers were chosen."""
    notes: tuple[str, ...] = ()
    """What to know about the result, as clauses."""


class ExampleCounter:
    """Reports how many examples of an activity are done."""

    def __init__(self, reporter: Reporter, activity: str, total: int, unit: str = "examples") -> None:
        self._reporter = reporter
        self._activity = activity
        self._total = total
        self._unit = unit
        self._done = 0
        self.add(0)

    def add(self, examples: int) -> None:
        """Add to the number of examples and report it; 0 only reports that the activity is alive."""
        self._done += examples
        self._reporter.progress(self._activity, done=self._done, total=self._total, unit=self._unit)


def reward_result(name: Metric, tuned: float, interval: tuple[float, float], against: BaselineKind) -> MetricResult:
    """The MetricResult of a metric of rewards, which are measured against the model ``against``.

    Args:
        name: A metric with a neutral value.
        tuned: Value of the tuned model.
        interval: Confidence interval of that value.
        against: The model whose rewards are 0.
    """
    neutral = name.row.neutral
    assert neutral is not None
    low, high = interval
    return MetricResult(
        name=name,
        measured_against=against,
        tuned=tuned,
        change=tuned - neutral,
        interval=(low - neutral, high - neutral),
        higher_is_better=name.higher_is_better,
    )
