"""CodeGeneration on models with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.modelling.tokenizer import plain_decode
from finetune_trainer.pairs.seq2seq import Seq2SeqPairEncoder, prefix_for
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.code_generation.causal import check_comes_back
from finetune_trainer.tasks.code_generation.texts import seq2seq_prefix
from finetune_trainer.tasks.code_generation.white_space import code_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Seq2SeqCodeEncoder:
    """Tokenises prompts for the encoder, and completions for the decoder. A row that is too long is invalid."""

    notes: tuple[str, ...] = ()

    def __init__(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Mapping[str, Any]
    ) -> None:
        """
        Raises:
            StageFailure: BadConfiguration when the tokenizer does not keep white space, no answer would end, or the
                job has an instruction that the model does not read.
        """
        self.prefix = prefix_for(spec, config, seq2seq_prefix(spec))
        self._max_length = max_length
        self._encoder = Seq2SeqPairEncoder(spec, tokenizer, max_length, self.prefix, target="completion")
        self._decode = plain_decode(tokenizer)
        caller: Any = tokenizer

        def encode(listed: Sequence[str]) -> list[list[int]]:
            found: list[list[int]] = caller(text_target=list(listed), add_special_tokens=False)["input_ids"]
            return found

        code_tokens(encode, self._decode, spec.model.uri)  # Refuses the tokenizer before the data is read.

    @property
    def fields(self) -> list[pa.Field]:
        return self._encoder.fields

    @property
    def answers(self) -> AnswerTokens:
        return self._encoder.answers

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        """Tokenise prompts and completions."""
        problems = {
            index: BadRow(
                f"the prompt has more tokens than the sequence length of {self._max_length}; shorten it, or raise "
                "training.maxSequenceLength if the model supports more"
            )
            for index, fits in enumerate(self._encoder.fit(sources))
            if not fits
        }
        chosen = [index for index in range(len(sources)) if index not in problems]
        encoded = self._encoder.encode([sources[index] for index in chosen], [targets[index] for index in chosen])
        problems |= {chosen[index]: problem for index, problem in encoded.problems.items()}
        chosen = [index for index in chosen if index not in problems]
        kept = []
        for position, decoded in enumerate(self._decode(encoded.columns["labels"].to_pylist())):
            try:
                check_comes_back(targets[chosen[position]], decoded)
                kept.append(position)
            except BadRow as problem:
                problems[chosen[position]] = problem
        columns = {name: values.take(pa.array(kept, pa.int64())) for name, values in encoded.columns.items()}
        return Encoded(columns, np.zeros(len(kept), np.bool_), problems, tokens=encoded.tokens)
