"""Text-to-text tasks on decoders: the source is a message of the user, the target the answer of the assistant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.pairs.rows import Pair
from finetune_trainer.pairs.task import PairTask
from finetune_trainer.prepare.arrays import texts
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example, RowSchema, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLAIN_TEMPLATE = (
    "{bos}{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{% generation %}}{{{{ message['content'] + eos_token }}}}{{% endgeneration %}}"
    "{{%- else -%}}"
    "{{{{ message['content'] + '\\n\\n' }}}}"
    "{{%- endif -%}}"
    "{{%- endfor -%}}"
)
"""The chat template of a model without one: instruction, source and target, each after an empty line."""

_LEAST_SOURCE = 8
"""Tokens of the source below which a row is of no use."""


class CausalPairsPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`.

    A source that leaves less room than evaluation.generation.maxNewTokens for the target is truncated. Its length does
    not depend on the target, which the evaluation must not know.
    """

    labels: tuple[str, ...] = ()
    rows = prefix = ""

    def __init__(
        self, task: PairTask, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> None:
        self._task = task
        self._spec = spec
        self._instruction = task.instruction(spec)
        self._tokenizer = tokenizer
        self._tokeniser = ChatTokeniser(tokenizer, max_length)
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._budget = self._source_tokens(max_length)
        self._check = task.check()

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    @property
    def answers(self) -> AnswerTokens:
        return self._tokeniser.answers

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = self._task.rows(self._spec, files)
        check_headers(files, schema)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        pairs = [example for example in examples if isinstance(example, Pair)]
        sources = self._cut([pair.source for pair in pairs])
        conversations = [self._conversation(source, pair.target) for source, pair in zip(sources, pairs, strict=True)]
        encoded = self._tokeniser.encode(conversations)
        valid = [index for index in range(len(pairs)) if index not in encoded.problems]
        # The report shows the source without the instruction.
        columns = encoded.columns | {"prompt": texts([sources[index] for index in valid])}
        truncated = np.array([sources[index] != pairs[index].source for index in valid], np.bool_)
        return Encoded(columns, truncated, encoded.problems)

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> Sequence[str]:
        return self._check.notes()

    def finish(self, batch: pa.RecordBatch, label_counts: Counter[str]) -> pa.RecordBatch:
        self._check.see(batch)
        return batch

    def _conversation(self, source: str, target: str) -> Conversation:
        messages = [
            {"role": "user", "content": f"{self._instruction}\n\n{source}"},
            {"role": ASSISTANT, "content": target},
        ]
        return Conversation(messages, learned=(False, True))

    def _source_tokens(self, max_length: int) -> int:
        """The most tokens that a source may have.

        Raises:
            StageFailure: BadConfiguration when there is no room for a source.
        """
        # With a tokeniser of its own, because it counts answers.
        encoded = ChatTokeniser(self._tokenizer, max_length).encode([self._conversation("a", "a")])
        if encoded.problems:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"{self._spec.model.uri} has no use for {self._instruction!r}: {encoded.problems[0]}",
            )
        prompt = int(encoded.columns["prompt_length"][0].as_py())
        new_tokens = min(self._spec.evaluation.generation.max_new_tokens, max_length // 2)
        budget = max_length - prompt - new_tokens
        if budget < _LEAST_SOURCE:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"The sequence length of {max_length} tokens leaves no room for a text: the instruction and the chat "
                f"template take {prompt}, and the answer {new_tokens}; raise training.maxSequenceLength, or shorten "
                "task.instruction",
            )
        return budget

    def _cut(self, sources: Sequence[str]) -> list[str]:
        """``sources``, each cut after the last token for which there is room."""
        cut = []
        for source, encoding in zip(
            sources, self._backend.encode_batch(list(sources), add_special_tokens=False), strict=True
        ):
            too_long = len(encoding.ids) > self._budget
            cut.append(source[: encoding.offsets[self._budget - 1][1]].rstrip() if too_long else source)
        return cut
