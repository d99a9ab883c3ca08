"""Text-to-text tasks on decoders: the source is a message of the user, the target the answer of the assistant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.modelling.tokenizer import plain_backend
from finetune_trainer.prepare.arrays import texts
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser

if TYPE_CHECKING:
    from tokenizers import Encoding
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


class CausalPairEncoder:
    """Implements `finetune_trainer.pairs.encoder.PairEncoder`: the source is a message of the user.

    A source that leaves less room than evaluation.generation.maxNewTokens for the target is truncated. Its length does
    not depend on the target, which the evaluation must not know.
    """

    prefix = ""

    def __init__(
        self,
        spec: FineTuneJobSpec,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        instruction: str,
    ) -> None:
        """``instruction``: what the model is asked to do, before the source."""
        self._spec = spec
        self._instruction = self.before = instruction
        self._tokenizer = tokenizer
        self._tokeniser = ChatTokeniser(tokenizer, max_length)
        self._backend = plain_backend(tokenizer)
        self._budget = self._source_tokens(max_length)
        self.answers = self._tokeniser.answers

    @property
    def fields(self) -> list[pa.Field]:
        return self._tokeniser.fields

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        cut = self.cut(sources)
        encoded = self._tokeniser.encode([self.conversation(*pair) for pair in zip(cut, targets, strict=True)])
        valid = [index for index in range(len(sources)) if index not in encoded.problems]
        # The report shows the source without the instruction.
        columns = encoded.columns | {"prompt": texts([cut[index] for index in valid])}
        truncated = np.array([cut[index] != sources[index] for index in valid], np.bool_)
        return Encoded(columns, truncated, encoded.problems)

    def conversation(self, source: str, target: str) -> Conversation:
        """The conversation that the model learns."""
        messages = [
            {"role": "user", "content": f"{self._instruction}\n\n{source}"},
            {"role": ASSISTANT, "content": target},
        ]
        return Conversation(messages, learned=(False, True))

    def shown(self, sources: Sequence[str]) -> list[str]:
        return self.cut(sources)

    def fit(self, sources: Sequence[str]) -> list[bool]:
        return [len(encoding.ids) <= self._budget for encoding in self._encodings(sources)]

    def _source_tokens(self, max_length: int) -> int:
        """The most tokens that a source may have.

        Raises:
            StageFailure: BadConfiguration when there is no room for a source.
        """
        # With a tokeniser of its own, because it counts answers.
        encoded = ChatTokeniser(self._tokenizer, max_length).encode([self.conversation("a", "a")])
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

    def cut(self, sources: Sequence[str]) -> list[str]:
        """``sources``, each cut after the last token for which there is room."""
        cut = []
        for source, encoding in zip(sources, self._encodings(sources), strict=True):
            too_long = len(encoding.ids) > self._budget
            cut.append(source[: encoding.offsets[self._budget - 1][1]].rstrip() if too_long else source)
        return cut

    def _encodings(self, sources: Sequence[str]) -> list[Encoding]:
        encodings: list[Encoding] = self._backend.encode_batch(list(sources), add_special_tokens=False)
        return encodings
