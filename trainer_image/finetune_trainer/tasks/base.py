"""What a task is made of.

A task's folder holds a ``task`` object with the members of `Task`. Its modules import torch only where they train or
evaluate, as the prepare stage runs without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example, RowSchema
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepared import DataReport

if TYPE_CHECKING:
    import torch
    from jinja2 import Environment
    from transformers import PreTrainedTokenizerFast

    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs
    from finetune_trainer.train.data import Collator, TrainingDataset


class Preparation(Protocol):
    """The task's part of one run of prepare. Data sets are read one after the other, train first."""

    @property
    def fields(self) -> list[pa.Field]:
        """The columns that ``encode`` makes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in order of their index, known when all data sets are read; empty for a task without labels."""

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        """How the rows of the next data set are read.

        Raises:
            StageFailure: BadData, when a header lacks a column.
        """

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Tokenise a batch of examples."""

    def end_data_set(self, uri: str) -> None:
        """Called when all rows of the data set at ``uri`` are read.

        Raises:
            StageFailure: BadData, when its rows together are of no use.
        """

    def finish(self, batch: pa.RecordBatch, label_counts: Counter[str]) -> pa.RecordBatch:
        """A batch as it is stored, when all data sets are read; counts its examples by label."""


@dataclass(frozen=True)
class ModelClass:
    """The class of transformers that a task loads its model with."""

    auto_class: Any
    settings: Mapping[str, Any]
    """Further arguments of ``from_pretrained``."""


@dataclass(frozen=True)
class CardParts:
    """What a task says in the model card, as Markdown."""

    purpose: str
    """Completes ``A LoRA adapter for …``."""
    usage: str
    """A Python program that loads and uses the artifact."""
    note: str
    """What follows the program; may be empty."""
    limitations: Sequence[str]


class Task(Protocol):
    """One task."""

    needs_chat_template: bool
    """Whether the tokenizer renders conversations."""
    adapter_task: str
    """PEFT's name of the task."""
    loss_over_rows: bool
    """Whether the model's loss is the mean over the rows of a batch, which then all count the same; otherwise it is the
    mean over tokens."""

    def preparation(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Preparation:
        """The task's part of the prepare stage. ``max_length``: tokens of the longest example."""

    def dataset(self, table: pa.Table, spec: FineTuneJobSpec, data: DataReport) -> TrainingDataset:
        """The rows of a prepared split, as training sees them."""

    def collator(self, pad_token_id: int) -> Collator:
        """Makes a padded batch of rows."""

    def model_class(self, data: DataReport) -> ModelClass:
        """How the model is loaded for training and evaluation."""

    def head_modules(self, model: torch.nn.Module) -> Iterable[str]:
        """Modules of the pretrained model that belong to the task's head, so are trained whole beside an adapter."""

    def learned(self, labels: torch.Tensor) -> int:
        """How many rows or tokens the mean loss of a batch with ``labels`` is the mean of."""

    def compare(self, inputs: EvaluationInputs) -> Comparison:
        """Measure baseline and tuned model on the test split.

        Raises:
            StageFailure: BadConfiguration (model and data do not fit), BadData, Diverged (outputs that are not finite),
                OutOfMemory.
        """

    def baseline_note(self, details: Mapping[str, Any]) -> str:
        """How the baseline was made, in sentences for the report."""

    def report_section(self, inputs: ReportInputs, environment: Environment) -> str:
        """The part of report.html that shows what tuning changed, as HTML; empty when there is nothing to show."""

    def card(self, inputs: CardInputs, environment: Environment) -> CardParts:
        """The task's part of the model card."""

    def finish_artifact(self, directory: Path, data: DataReport) -> None:
        """Complete the files of an artifact that plain transformers or PEFT load."""


Render = Callable[..., str]


def template_of(package: str, name: str, environment: Environment) -> Render:
    """``render`` of a template beside a task's modules."""
    from importlib.resources import files

    return environment.from_string((files(package) / name).read_text(encoding="utf-8")).render
