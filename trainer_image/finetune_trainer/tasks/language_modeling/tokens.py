"""LanguageModeling: tokenises whole documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_trainer.modelling.tokenizer import encoding_explained
from finetune_trainer.prepare.arrays import TOKENS, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.language_modeling.rows import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class DocumentTokeniser:
    """Tokenises documents: the tokens that the tokenizer puts before a text, its own, and the end-of-sequence token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """``tokenizer`` has an end-of-sequence token."""
        # A copy, because truncation and padding are settings of the backend.
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._end: int = tokenizer.eos_token_id
        with encoding_explained():
            self.answers = AnswerTokens(start=self._start())
        self.ended_inside = self.started_inside = 0
        """Documents whose text contains the end-of-sequence token, or a token that is put before it anyway."""

    @property
    def fields(self) -> list[pa.Field]:
        return [pa.field("input_ids", TOKENS), pa.field("text", pa.string())]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        documents = [example.text for example in examples if isinstance(example, Document)]
        with encoding_explained():
            encodings = self._backend.encode_batch_fast(documents, add_special_tokens=False)
        problems: dict[int, BadRow] = {}
        rows, kept = [], []
        for index, encoding in enumerate(encodings):
            ids = encoding.ids
            if not ids:
                problems[index] = BadRow("the tokenizer of the model finds no tokens in the document; remove it")
                continue
            self.ended_inside += self._end in ids
            self.started_inside += not set(self.answers.start).isdisjoint(ids)
            rows.append([*self.answers.start, *ids, self._end])
            kept.append(documents[index])
        self.answers.ends[self._end] += len(rows)
        return Encoded({"input_ids": token_lists(rows), "text": texts(kept)}, np.zeros(len(rows), np.bool_), problems)

    def _start(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before a text."""
        alone = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a").ids
        starts = range(len(whole) - len(alone) + 1)
        first = next((start for start in starts if whole[start : start + len(alone)] == alone), 0)
        return tuple(whole[:first])
