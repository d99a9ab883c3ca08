"""Text-to-text tasks in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.pairs.check import CopiedTargets, plain
from finetune_trainer.pairs.encoder import PairEncoder
from finetune_trainer.pairs.rows import OpenPairs, Pair
from finetune_trainer.pairs.task import PairTask
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import UNANSWERED, Example, RowSchema, check_headers, first_columns
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens


class PairsPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation` for models of any family."""

    labels: tuple[str, ...] = ()
    rows = ""

    def __init__(self, task: PairTask, spec: FineTuneJobSpec, encoder: PairEncoder) -> None:
        self._task = task
        self._spec = spec
        self._encoder = encoder
        self._check = CopiedTargets(task.fields)
        self.prefix = encoder.prefix
        self._rows = self._asked = 0
        """Rows, and those whose source begins with what is asked before it anyway."""

    @property
    def fields(self) -> list[pa.Field]:
        return self._encoder.fields

    @property
    def answers(self) -> AnswerTokens:
        return self._encoder.answers

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = self._task.rows(self._spec, first_columns(files))
        check_headers(files, schema)
        return schema

    def open_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = OpenPairs(self._task.rows(self._spec, first_columns(files)))
        check_headers(files, schema)
        return schema

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        return [Pair(source, UNANSWERED) for source in self._shown(examples)]

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        instruction = self._task.instruction(self._spec)
        messages = ([{"role": "user", "content": f"{instruction}\n\n{source}"}] for source in self._shown(examples))
        return [Question(one) for one in messages]

    def with_answer(self, example: Example, answer: str) -> Pair:
        assert isinstance(example, Pair)
        return Pair(example.source, answer.strip())

    def _shown(self, examples: Sequence[Example]) -> list[str]:
        return self._encoder.shown([example.source for example in examples if isinstance(example, Pair)])

    def encode(self, examples: Sequence[Example]) -> Encoded:
        pairs = [example for example in examples if isinstance(example, Pair)]
        before = _asking(self._encoder.before)
        self._rows += len(pairs)
        self._asked += sum(
            bool(before) and _asking(pair.source[: 2 * len(before)]).startswith(before) for pair in pairs
        )
        return self._encoder.encode([pair.source for pair in pairs], [pair.target for pair in pairs])

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> Sequence[str]:
        if not self._asked:
            return self._check.notes()
        asked = (
            f"{self._asked:,} of {self._rows:,} sources begin with '{self._encoder.before.strip()[:60]}', which is put "
            "before each of them; remove it from the data"
        )
        return [asked, *self._check.notes()]

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        self._check.see(batch)
        return batch


def _asking(text: str) -> str:
    """``text`` without what people write in different ways, also the signs at its end."""
    return plain(text).rstrip(" :.")
