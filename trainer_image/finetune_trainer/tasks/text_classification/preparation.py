"""TextClassification in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepare.arrays import int32s, integers
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.text_classification.rows import (
    MOST_LABELS,
    LabelledRows,
    label_notes,
    same_number,
    sorted_labels,
)
from finetune_trainer.tasks.text_classification.tokens import TextTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextClassificationPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`.

    The labels are task.labels, or else all labels in the training data.
    """

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._columns = spec.dataset.columns
        self._given = spec.task.labels
        self._derived: frozenset[str] | None = None
        self._tokeniser = TextTokeniser(tokenizer, max_length)

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
        labels, origin = self._derived, "the training data"
        if self._given is not None:
            labels, origin = frozenset(self._given), "task.labels"
        schema = LabelledRows(self._columns.name("text"), self._columns.name("label"), labels, origin)
        check_headers(files, schema)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        return self._tokeniser.encode(examples)

    def end_data_set(self, uri: str) -> None:
        if self._given is None and self._derived is None:
            self._derived = _derived_labels(self._tokeniser, uri)

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        return label_notes(label_counts)

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        """Replace the provisional index of each label, in order of first appearance, by its final index."""
        labels = self.labels
        column = batch.schema.get_field_index("label")
        indices = self._final_indices[int32s(batch.column(column))]
        counts = np.bincount(indices, minlength=len(labels)).tolist()
        label_counts.update(dict(zip(labels, counts, strict=True)))
        return batch.set_column(column, batch.schema.field(column), integers(indices))

    @cached_property
    def _final_indices(self) -> npt.NDArray[np.int32]:
        index_of = {label: index for index, label in enumerate(self.labels)}
        return np.asarray([index_of[label] for label in self._tokeniser.labels], np.int32)


def _derived_labels(tokeniser: TextTokeniser, uri: str) -> frozenset[str]:
    labels = frozenset(tokeniser.labels)
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
