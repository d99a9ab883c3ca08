"""TextClassification in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_api.vocabulary import ClassWeights
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.modelling.families import base_labels
from finetune_trainer.prepare.arrays import int32s, integers, list_lengths, lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import percent
from finetune_trainer.prepare.rows import Example, check_headers
from finetune_trainer.prepare.sources import DataFile, FileKind
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.text_classification.label_lists import LabelListRows, MultiLabelled
from finetune_trainer.tasks.text_classification.rows import (
    MOST_LABELS,
    Labelled,
    LabelledRows,
    Text,
    Unlabelled,
    divided_label,
    label_notes,
    same_number,
    sorted_labels,
)
from finetune_trainer.tasks.text_classification.teaching import OpenLabels, instruction, with_answer
from finetune_trainer.tasks.text_classification.tokens import TextTokeniser
from finetune_trainer.tasks.text_classification.weights import weight_notes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHOWN = 3
"""Labels that a note names."""


class TextClassificationPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation` and `finetune_trainer.tasks.teachable.Teachable`.

    The labels are task.labels, or else all labels in the training data.
    """

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._columns = spec.dataset.columns
        self._given = spec.task.labels
        self._derived: frozenset[str] | None = None
        self._spec = spec
        self._multi_label = spec.task.multi_label
        self._tokeniser = TextTokeniser(tokenizer, max_length, multi_label=self._multi_label)
        self._examples: Counter[str] = Counter()
        self._label_counts: dict[str, npt.NDArray[np.int64]] = {}
        self._unlabelled = 0
        self._unanswered = 0
        """Rows that a teacher has yet to label: in a dry run, or until the stage respond."""
        self._open = False
        """Whether a teacher labels the training data."""
        self._compared = self._agreeing = 0
        """Rows with a label in the data that the teacher has labelled, and those on which both agree."""

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    @property
    def rows(self) -> str:
        return ""

    @property
    def prefix(self) -> str:
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        return sorted_labels(self._tokeniser.labels) if self._given is None else self._given

    @property
    def answers(self) -> AnswerTokens:
        return AnswerTokens()

    def row_schema(self, files: Sequence[DataFile]) -> LabelledRows:
        schema = self._schema(files)
        check_headers(files, schema)
        return schema

    def open_schema(self, files: Sequence[DataFile]) -> OpenLabels:
        schema = OpenLabels(self._schema(files))
        check_headers(files, schema)
        self._open = True
        return schema

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        return [Unlabelled(example.text) for example in examples if isinstance(example, Text)]

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        asked = instruction(self.labels, multi_label=self._multi_label)
        texts = [example.text for example in examples if isinstance(example, Text)]
        return [Question([{"role": "user", "content": f"{asked}\n\n{text}"}]) for text in texts]

    def with_answer(self, example: Example, answer: str) -> Labelled | MultiLabelled:
        assert isinstance(example, Text)
        found = with_answer(example.text, answer, self.labels, multi_label=self._multi_label)
        if not isinstance(example, Unlabelled):
            self._compared += 1
            self._agreeing += found.answer == example.answer
        return found

    def _schema(self, files: Sequence[DataFile]) -> LabelledRows:
        labels, origin = self._derived, "the training data"
        if self._given is not None:
            labels, origin = frozenset(self._given), "task.labels"
        names = self._columns.name("text"), self._columns.name("label")
        schema = LabelledRows(*names, labels, origin)
        if self._multi_label:
            separated = all(file.kind in (FileKind.CSV, FileKind.TSV) for file in files)
            schema = LabelListRows(*names, labels, origin, separated)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        return self._tokeniser.encode(examples)

    def end_data_set(self, uri: str) -> None:
        if self._given is None and self._derived is None:
            if self._open and not self._tokeniser.labels:
                raise StageFailure(
                    Reason.BAD_DATA,
                    f"No row of {uri} has a label, so the labels that the teacher chooses from are not known: name "
                    "them in task.labels",
                )
            self._derived = _derived_labels(self._tokeniser, uri)
            if self._multi_label:
                _check_divided(self._derived, uri)

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        """Raises:
        StageFailure: BadData when a metric of the spec is not defined on the test split, or no label of the test split
            has a training row.
        """
        if self._unanswered:
            return self._auroc_notes()
        train, test = (self._counts(split) for split in ("train", TEST))
        weights = [] if self._spec.task.class_weights is ClassWeights.NONE else weight_notes(train)
        return [
            *weights,
            *unlearnable(train, test),
            *(constant(train, self._examples["train"]) if self._multi_label else ()),
            *self._agreement(),
            *self._auroc_notes(),
            *self._unlabelled_notes(),
            *self._list_notes(),
            *label_notes(label_counts),
        ]

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        """Replace the provisional index of each label, in order of first appearance, by its final index."""
        labels = self.labels
        column = batch.schema.get_field_index("labels" if self._multi_label else "label")
        provisional = batch.column(column)
        flat = provisional.flatten() if self._multi_label else provisional
        found = int32s(flat)
        labelled = found != IGNORED_LABEL
        indices = np.full_like(found, IGNORED_LABEL)
        indices[labelled] = self._final_indices[found[labelled]]
        self._unanswered += int((~labelled).sum())
        counts = np.bincount(indices[labelled], minlength=len(labels))
        label_counts.update(dict(zip(labels, counts.tolist(), strict=True)))
        self._examples[split] += len(batch)
        self._label_counts[split] = self._label_counts.get(split, 0) + counts
        final = integers(indices)
        if self._multi_label:
            lengths = list_lengths(provisional)
            self._unlabelled += int((lengths == 0).sum())
            final = lists(lengths, indices)
        return batch.set_column(column, batch.schema.field(column), final)

    def _agreement(self) -> list[str]:
        """How often the teacher agrees with the data."""
        if not self._compared:
            return []
        share = percent(self._agreeing / self._compared)
        return [f"the teacher labels {self._agreeing:,} of {self._compared:,} rows as the data does ({share})"]

    def _counts(self, split: str) -> dict[str, int]:
        return dict(zip(self.labels, self._label_counts[split].tolist(), strict=True))

    def _auroc_notes(self) -> list[str]:
        if Metric.AUROC not in self._spec.metrics:
            return []
        counts = self._label_counts[TEST]
        left_out = [
            label for label, count in zip(self.labels, counts, strict=True) if count in (0, self._examples[TEST])
        ]
        if len(left_out) == len(self.labels):
            raise undefined_auroc()
        return [auroc_note(left_out)] if left_out else []

    def _unlabelled_notes(self) -> list[str]:
        count = self._unlabelled
        return [f"{count:,} row{'s have' if count > 1 else ' has'} no label"] if count else []

    def _list_notes(self) -> list[str]:
        """Whether labels are lists, in a job with one label for each row."""
        if self._multi_label or self._given is not None or (found := divided_label(self.labels)) is None:
            return []
        return [f"label '{found[0][:40]}' looks like a list of labels; if it is one, set task.multiLabel to true"]

    @cached_property
    def _final_indices(self) -> npt.NDArray[np.int32]:
        index_of = {label: index for index, label in enumerate(self.labels)}
        return np.asarray([index_of[label] for label in self._tokeniser.labels], np.int32)


def unlearnable(train: Mapping[str, int], test: Mapping[str, int]) -> list[str]:
    """A clause about labels without a training row.

    Args:
        train: Rows of the training split by label.
        test: Rows of the test split by label; the same labels.

    Raises:
        StageFailure: BadData when this is so for all labels of the test split.
    """
    absent = sorted((label for label, count in train.items() if not count), key=lambda label: (-test[label], label))
    tested = sum(test[label] > 0 for label in absent)
    if tested and tested == sum(count > 0 for count in test.values()):
        raise StageFailure(
            Reason.BAD_DATA,
            f"No label of the test split has a training row, such as '{absent[0][:80]}', so the model cannot get one "
            "right: add rows for each label, or set dataset.columns.label to the right column",
        )
    if not absent:
        return []
    names = ", ".join(
        f"'{label[:30]}' ({test[label] or 'no'} test row{'' if test[label] == 1 else 's'})" for label in absent[:_SHOWN]
    ) + (", …" if len(absent) > _SHOWN else "")
    return [
        f"the model cannot learn {len(absent):,} label{'s' if len(absent) > 1 else ''} without a training row: {names}"
    ]


def constant(train: Mapping[str, int], rows: int) -> list[str]:
    """A clause about labels that every training row has.

    Args:
        train: Rows of the training split by label; a row may have several.
        rows: Rows of the training split.

    Raises:
        StageFailure: BadData when there are no other labels.
    """
    always = [label for label, count in train.items() if count == rows]
    if always and len(always) == sum(count > 0 for count in train.values()):
        raise StageFailure(
            Reason.BAD_DATA,
            f"All training rows have the same labels ({_shown(always)}), so there is nothing to tell apart: write in "
            "each row only the labels that it has",
        )
    return [f"every training row has the label{'s' if len(always) > 1 else ''} {_shown(always)}"] if always else []


def undefined_auroc() -> StageFailure:
    """The failure of a job that asks for an AUROC which the test split does not define."""
    return StageFailure(
        Reason.BAD_DATA,
        "auroc needs a label that some test rows have and others do not, but there is none: add test rows, or remove "
        "auroc from evaluation.metrics and evaluation.gates",
    )


def auroc_note(labels: Sequence[str]) -> str:
    """Which labels the AUROC leaves out, as a clause."""
    what = "the label" if len(labels) == 1 else f"{len(labels):,} labels"
    return f"auroc leaves out {what} that no or every test row has: {_shown(labels)}"


def _shown(labels: Sequence[str]) -> str:
    """The first of ``labels``."""
    return ", ".join(f"'{label[:40]}'" for label in labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")


def check_head(config: Mapping[str, Any], uri: str) -> None:
    """Check that the head of the base model, if it has one, is that of a classifier.

    Raises:
        StageFailure: BadConfiguration when it predicts a number.
    """
    if config.get("problem_type") == "regression" or len(base_labels(config) or ("", "")) == 1:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{uri} predicts a number (config.json has one label, or problem_type regression), and TextClassification "
            "learns labels: set spec.model.uri to a model without a head, or to a classifier",
        )


def _check_divided(labels: Collection[str], uri: str) -> None:
    """Check that labels are not lists with a comma, which is no separator.

    Raises:
        StageFailure: BadData when they probably are.
    """
    if found := divided_label(labels):
        label, sign = found
        raise StageFailure(
            Reason.BAD_DATA,
            f"The label '{label[:80]}' of {uri} looks like a list: other labels have the same parts between {sign!r}; "
            "write labels in CSV with ; or | between them, elsewhere as a list, or name all labels in task.labels if "
            "these are single ones",
        )


def _derived_labels(tokeniser: TextTokeniser, uri: str) -> frozenset[str]:
    labels = frozenset(tokeniser.labels)
    if not labels:
        raise StageFailure(
            Reason.BAD_DATA, f"No row of {uri} has a label: set dataset.columns.label to the right column"
        )
    if same := same_number(labels):
        raise StageFailure(
            Reason.BAD_DATA,
            f"The label column of {uri} has the labels '{same[0]}' and '{same[1]}', which are the same number: write "
            "them the same way",
        )
    if len(labels) == 1:
        raise StageFailure(
            Reason.BAD_DATA,
            f"All rows of {uri} have the label '{min(labels)}', but classification needs two labels or more: add rows "
            "with other labels",
        )
    if len(labels) > MOST_LABELS:
        raise StageFailure(
            Reason.BAD_DATA,
            f"The label column of {uri} has {len(labels)} different values, more than {MOST_LABELS}: set "
            "dataset.columns.label to the right column",
        )
    return labels
