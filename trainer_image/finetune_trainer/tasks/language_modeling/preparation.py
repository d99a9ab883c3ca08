"""LanguageModeling in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepare.arrays import list_lengths, texts
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.readers.documents import TEXT
from finetune_trainer.prepare.rows import Example, check_headers
from finetune_trainer.prepare.sources import DataFile, FileKind
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.tasks.language_modeling.cutting import row_bounds
from finetune_trainer.tasks.language_modeling.rows import FIELD, DocumentRows
from finetune_trainer.tasks.language_modeling.tokens import DocumentTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class LanguageModelingPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`."""

    labels: tuple[str, ...] = ()
    rows = prefix = ""

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._columns = spec.dataset.columns
        self._tokeniser = DocumentTokeniser(tokenizer)
        self._max_length = max_length
        self._end = str(tokenizer.eos_token)
        self._trained: list[npt.NDArray[np.int64]] = []
        """Tokens of the documents of the training split."""

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    @property
    def answers(self) -> AnswerTokens:
        return self._tokeniser.answers

    def row_schema(self, files: Sequence[DataFile]) -> DocumentRows:
        is_text = all(file.kind is FileKind.TEXT for file in files)
        schema = DocumentRows(TEXT if is_text else self._columns.name(FIELD))
        check_headers(files, schema)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        return self._tokeniser.encode(examples)

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every document is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        lengths = np.concatenate(self._trained)
        rows = len(row_bounds(lengths, self._max_length)) - 1
        notes = [
            f"an epoch has {lengths.sum():,} tokens of {_counted(len(lengths), 'document')} in "
            f"{_counted(rows, 'row')} of at most {self._max_length:,}; within a row, attention crosses documents"
        ]
        if inside := self._tokeniser.ended_inside:
            notes.append(
                f"{_counted(inside, 'document')} contain{'s' if inside == 1 else ''} the end token {self._end[:30]!r} "
                "in the text, which is learned as an end"
            )
        if inside := self._tokeniser.started_inside:
            notes.append(
                f"{_counted(inside, 'document')} contain{'s' if inside == 1 else ''} the start token in the text, "
                "which is learned beside the one that the tokenizer puts before it; remove it"
            )
        return notes

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        """Only the evaluation needs texts; a corpus would be stored twice."""
        if split == "train":
            self._trained.append(list_lengths(batch.column(0)))
        if split == TEST:
            return batch
        column = batch.schema.get_field_index("text")
        return batch.set_column(column, batch.schema.field(column), texts([""] * batch.num_rows))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
