"""The protocol of a task.

The package of a task defines a `Task` named ``task``, which has a form for each family of models that it supports: an
encoder answers a question with a span of the text, a decoder with a text of its own. A form imports torch lazily, and
only to train and evaluate, because the prepare stage does not use torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pyarrow as pa

from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example, RowSchema
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepared import DataReport
from finetune_trainer.search.templates import SHOTS_TEMPLATE

if TYPE_CHECKING:
    import torch
    from jinja2 import Environment

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.evaluate.base_score import BaseScore
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs
    from finetune_trainer.sandbox.programs import OnPrograms, Sandbox
    from finetune_trainer.train.data import Collator, TrainingDataset
    from finetune_trainer.train.objective import Objective


class Preparation(Protocol):
    """The part of the prepare stage that depends on the task. The datasets are read one by one, train first."""

    @property
    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns that ``encode`` returns."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in order of their index, complete once all datasets are read; empty for a task without labels."""

    @property
    def answers(self) -> AnswerTokens:
        """Tokens of the learned answers, complete once all datasets are read."""

    @property
    def rows(self) -> str:
        """The form of the rows as it was detected, such as ``ShareGPT conversations``; empty if there is one form."""

    @property
    def prefix(self) -> str:
        """What the model sees before each source text; empty if it sees the text as it is, or in a chat template."""

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        """The row schema of the next dataset, which consists of ``files``.

        Raises:
            StageFailure: BadData when the header of a file lacks a column.
        """

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch of examples."""

    def end_data_set(self, uri: str) -> None:
        """Called after the last row of the dataset at ``uri``.

        Raises:
            StageFailure: BadData when the dataset as a whole is unusable.
        """

    def notes(self, label_counts: Mapping[str, int]) -> Sequence[str]:
        """Clauses about the data that the user should know, the most important first.

        Args:
            label_counts: Examples by label, in all splits.
        """

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        """Return ``batch`` of ``split`` in its final form, once all datasets are read, and add its examples to
        ``label_counts``.
        """


@dataclass(frozen=True)
class ModelClass:
    """How a task loads its model."""

    auto_class: Any
    """Class of transformers, such as AutoModelForCausalLM."""
    settings: Mapping[str, Any]
    """Additional arguments of ``from_pretrained``."""
    drops_out: bool = True
    """Whether training uses the dropout of the base model. That of an adapter is a setting of the method."""
    new_head: bool = False
    """Whether the last layer of the base model is replaced by a randomly initialised one."""


@dataclass(frozen=True)
class CardParts:
    """The parts of the model card that depend on the task, as Markdown."""

    purpose: str
    """Purpose of the model, such as ``text classification``."""
    usage: str
    """A Python program that loads and uses the artifact."""
    note: str
    """Text after the program; may be empty."""
    limitations: Sequence[str]
    of_training: Sequence[str] = ()
    """Limitations that a model has from its training; a search for a prompt has none of them."""
    examples: str = ""
    """Test examples with the answers of both models; empty if there are none to show."""
    languages: Sequence[str] = ()
    """Languages of the task, as BCP-47 tags or codes of the model; empty if it has none."""


@dataclass(frozen=True)
class Presentation:
    """What report and model card say about a task."""

    baseline_note: Callable[[Mapping[str, Any]], str]
    """A description of the baseline for the report, in sentences, from the details of the evaluation; may be empty."""
    report_section: Callable[[ReportInputs, Environment], str]
    """The section of report.html with the effects of tuning on test examples, as HTML; may be empty."""
    card: Callable[[CardInputs, Environment], CardParts]
    """The parts of the model card that depend on the task."""


@dataclass(frozen=True)
class Prediction:
    """The output of the tuned model for one row."""

    text: str
    """For people."""
    document: Mapping[str, Any]
    """For programs; can be converted to JSON."""


@dataclass(frozen=True)
class Recognised:
    """Data that is for a task."""

    columns: Mapping[str, str]
    """The column for each field of dataset.columns."""
    form: str
    """The form of the rows, if the task has several."""
    facts: str
    """What the rows contain, as a clause; may be empty."""
    certain: bool
    """Whether the names of the columns say so; otherwise it is a guess."""
    reads: tuple[str, ...] = ()
    """Columns that the task reads where there are any, besides those of ``columns``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of spec.task that the task or the data needs, such as targetLanguage."""
    preference: Mapping[str, Any] = field(default_factory=dict)
    """Fields of spec.method.preference that the data needs."""
    open: str = ""
    """What the user has to fill in, as a sentence; empty if the manifest is complete."""


class TaskForm(Protocol):
    """A task on models of one family."""

    uses_chat_template: bool
    """Whether examples are rendered with the chat template of the tokenizer."""
    shots_template: str
    """The chat template of a decoder without one, for prompts with examples."""
    adapter_task: str
    """PEFT task type, such as CAUSAL_LM."""

    def load_tokenizer(self, directory: Path, spec: FineTuneJobSpec) -> Any:
        """Load the tokenizer of the base model in ``directory``.

        Raises:
            StageFailure: BadConfiguration when it cannot be loaded or lacks what the task needs.
        """

    def preparation(
        self, spec: FineTuneJobSpec, tokenizer: Any, max_length: int, config: Mapping[str, Any]
    ) -> Preparation:
        """The part of the prepare stage that depends on the task.

        Args:
            spec: The spec of the job.
            tokenizer: The tokenizer of the base model, which `load_tokenizer` has loaded.
            max_length: Maximum number of tokens of an example.
            config: The model's ``config.json``.
        """

    def generation(self, tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of generation that the base model needs for the task, as in ``generation_config.json``.

        Args:
            tokenizer: The tokenizer of the base model, which `load_tokenizer` has loaded.
            config: The model's ``config.json``.
            generation: The model's ``generation_config.json``; may be empty.
        """

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        """The training dataset for the rows of a prepared split."""

    def collator(self, pad_token_id: int, model: Any) -> Collator:
        """The collate function, which pads a list of rows to a batch of tensors, the inputs of ``model``."""

    def model_class(self, data: DataReport) -> ModelClass:
        """The model class for training and evaluation."""

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        """Names of the pretrained modules that belong to the head, which are trained fully even with an adapter."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The training loss: the sum of the cross entropy, in nats, over all labels that are not ignored / ``count``.

        The sum is divided by the labels of the whole step, so that the loss does not depend on the world size and the
        number of micro-batches.

        Args:
            logits: Output of the model.
            labels: Labels of the batch, as the collator returns them; `IGNORED_LABEL` is ignored.
            count: Number of labels of the step that are not ignored.
        """

    def decisions(self, logits: torch.Tensor, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The logits of each decision that a teacher is compared in, those of the labels that are not ignored, of shape
        (decisions, classes).

        Args:
            logits: Output of a model, the student or its teacher.
            labels: Labels of the batch, as for `loss`.
            inputs: What the model has read, as the collator returns it.
        """

    def objective(
        self, spec: FineTuneJobSpec, data: DataReport, train: TrainingDataset, validation: TrainingDataset
    ) -> Objective | None:
        """What training minimises instead of `loss`; None if it is `loss`.

        Args:
            spec: The spec of the job.
            data: The report about the prepared data.
            train: The training rows, as `dataset` returns them.
            validation: The validation rows, likewise.
        """

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        """Compare the baseline with the tuned model on the test split.

        Raises:
            StageFailure: BadConfiguration (the model does not fit the data), BadData, Diverged (outputs that are not
                finite), OutOfMemory.
        """

    def answer_form(self) -> AnswerForm | None:
        """How answers are generated and measured; None if this form of the task generates none."""

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        """What a model is asked that is not trained, with placeholders for the texts of a row; empty if this form of
        the task has no such question.
        """

    def predict(self, inputs: EvaluationInputs, rows: Sequence[Any]) -> list[Prediction]:
        """Apply the tuned model to rows that have no answer; ``inputs.trained`` is the published artifact.

        The result for a row of the test split is that of `compare`.

        Args:
            inputs: Inputs as for `compare`, without prepared data.
            rows: Texts, or JSON objects with the columns of the task.

        Raises:
            StageFailure: BadData for an invalid row, by its number from 1; otherwise as `compare`.
        """

    def presentation(self) -> Presentation:
        """What report and model card say about the task."""

    def finish_artifact(self, directory: Path, data: DataReport, spec: FineTuneJobSpec) -> None:
        """Add task-specific files and settings to the artifact, so that transformers or PEFT can load it."""


class FormDefaults:
    """What a `TaskForm` has that most tasks need not decide."""

    shots_template = SHOTS_TEMPLATE

    def generation(self, tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def objective(
        self, spec: FineTuneJobSpec, data: DataReport, train: TrainingDataset, validation: TrainingDataset
    ) -> Objective | None:
        return None

    def answer_form(self) -> AnswerForm | None:
        return None

    def plain_instruction(self, spec: FineTuneJobSpec, data: DataReport) -> str:
        return ""


@runtime_checkable
class RunsPrograms(Protocol):
    """A `Preparation` that runs the programs of rows, where the job allows it."""

    def run_with(self, sandbox: Sandbox, on_programs: OnPrograms) -> None:
        """Run them in ``sandbox``; called before the data is read."""


@runtime_checkable
class AsksOnce(Protocol):
    """A `Preparation` of rows that may be longer than a question and its answer."""

    def ask_once(self) -> None:
        """Refuse a row that is; called before the data is read."""


@runtime_checkable
class ScoresBase(Protocol):
    """A `TaskForm` that measures a base model in its own way, not by its loss."""

    def base_score(self, inputs: EvaluationInputs) -> BaseScore:
        """How well the base model suits the task, measured on the test split without a tuned model.

        Raises:
            StageFailure: As `TaskForm.compare`.
        """


@runtime_checkable
class WeighsLabels(Protocol):
    """A `TaskForm` whose training loss may weigh labels."""

    def label_weights(self, spec: FineTuneJobSpec, data: DataReport) -> Sequence[float] | None:
        """The weight of each label, by its index; None if all count the same."""

    def weighted_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, total: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum of the cross entropy over all labels that are not ignored / ``total``.

        Args:
            logits: Output of the model.
            labels: Labels of the batch, as for `TaskForm.loss`.
            total: Sum of the weights of all labels of the step that are not ignored.
            weights: The weight of each label, of shape (labels,).
        """


_MISTAKES = 0.05
"""Share of the rows."""

Recognise = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], Recognised | None]
"""Finds the columns of a task in data that nobody has described, from the names of its columns and its first valid
rows; None if the data is not for the task."""


@dataclass(frozen=True)
class Task:
    """A task."""

    forms: Mapping[ModelFamily, TaskForm]
    """Its form for each family of models that a method is for."""
    recognise: Recognise


def known_name(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the ``known`` names of a column, in lower case, that is among ``names``, as it is written there."""
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[name] for name in known if name in by_name), None)


def several(count: int, rows: int) -> bool:
    """Whether something in ``count`` of ``rows`` is no mistake of a few of them, which must not decide the task."""
    return 0 < count == rows or count > max(1, _MISTAKES * rows)


Render = Callable[..., str]


def template_of(package: str, name: str, environment: Environment) -> Render:
    """The ``render`` method of the template file ``name`` in ``package``."""
    from importlib.resources import files

    return environment.from_string((files(package) / name).read_text(encoding="utf-8")).render
