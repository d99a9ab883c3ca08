"""InstructionTuning in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_api.vocabulary import LearnedTokens
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.prepare.arrays import int32s, list_lengths, lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import UNANSWERED, Example, RowSchema, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.instruction_tuning.messages import Conversation
from finetune_trainer.tasks.instruction_tuning.rows import SingleTurns, schema_for
from finetune_trainer.tasks.instruction_tuning.teaching import OpenRows, question, with_answer
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class InstructionTuningPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`; datasets are independent of each other."""

    labels: tuple[str, ...] = ()
    rows = prefix = ""

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._spec = spec
        self._learns_all = spec.task.loss is LearnedTokens.ALL
        self._tokeniser = ChatTokeniser(tokenizer, max_length, learns_all=self._learns_all)
        self._single = False

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    @property
    def answers(self) -> AnswerTokens:
        return self._tokeniser.answers

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = schema_for(self._spec, files)
        self.rows = self.rows or schema.form
        check_headers(files, schema)
        return SingleTurns(schema) if self._single else schema

    def ask_once(self) -> None:
        self._single = True

    def open_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = OpenRows(schema_for(self._spec, files))
        self.rows = self.rows or schema.form
        check_headers(files, schema)
        return schema

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        return [with_answer(example, UNANSWERED) for example in examples if isinstance(example, Conversation)]

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        return [question(example) for example in examples if isinstance(example, Conversation)]

    def with_answer(self, example: Example, answer: str) -> Conversation:
        assert isinstance(example, Conversation)
        return with_answer(example, answer.strip())

    def encode(self, examples: Sequence[Example]) -> Encoded:
        return self._tokeniser.encode(examples)

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> tuple[str, ...]:
        if not self._learns_all:
            return ()
        return (
            "training learns all tokens of a conversation, and the validation loss is the mean over all of them "
            "(task.loss); the metrics measure the answers of the assistant",
        )

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        """With task.loss All, label every token of the rows that train and validate; the test split has the answers."""
        if not self._learns_all or split == TEST:
            return batch
        column = batch.schema.get_field_index("labels")
        answers = batch.column(column)
        inputs, labels = int32s(batch.column("input_ids").flatten()), int32s(answers.flatten())
        # A label that is not the token itself is the end of an answer after which the template writes none.
        every = np.where(labels == IGNORED_LABEL, inputs, labels)
        return batch.set_column(column, batch.schema.field(column), lists(list_lengths(answers), every))
