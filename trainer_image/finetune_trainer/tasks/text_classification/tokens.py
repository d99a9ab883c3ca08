"""TextClassification: tokenises texts, and truncates them to the sequence length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_trainer.modelling.tokenizer import encoding_explained
from finetune_trainer.prepare.arrays import TOKENS, integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.text_classification.label_lists import MultiLabelled
from finetune_trainer.tasks.text_classification.rows import Labelled, Unlabelled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextTokeniser:
    """Tokenises texts with the special tokens of the model.

    The ``label`` column (``labels``, a list, if a text has any number of them) contains provisional indices, in order
    of first appearance in ``labels``; the caller replaces them once all labels are known. A text that a teacher has yet
    to label has `IGNORED_LABEL`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, multi_label: bool) -> None:
        # A copy, because truncation is a setting of the backend, and the tokenizer is saved without changes.
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
        self.labels: dict[str, int] = {}
        self._multi_label = multi_label

    @property
    def fields(self) -> list[pa.Field]:
        label = pa.field("labels", TOKENS) if self._multi_label else pa.field("label", pa.int32())
        return [pa.field("input_ids", TOKENS), label, pa.field("text", pa.string())]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        contents, labels = [], []
        for example in examples:
            assert isinstance(example, Labelled | MultiLabelled | Unlabelled)
            contents.append(example.text)
            if isinstance(example, Unlabelled):
                labels.append([IGNORED_LABEL])
                continue
            names = example.labels if isinstance(example, MultiLabelled) else (example.label,)
            labels.append([self.labels.setdefault(name, len(self.labels)) for name in names])
        with encoding_explained():
            encodings = self._backend.encode_batch_fast(contents)
        columns = {
            "input_ids": token_lists([encoding.ids for encoding in encodings]),
            **self._column(labels),
            "text": texts(contents),
        }
        truncated = np.fromiter((bool(encoding.overflowing) for encoding in encodings), np.bool_, len(encodings))
        return Encoded(columns, truncated, {})

    def _column(self, labels: list[list[int]]) -> dict[str, pa.Array]:
        if self._multi_label:
            return {"labels": token_lists(labels)}
        return {"label": integers(np.asarray([index for (index,) in labels], np.int32))}
