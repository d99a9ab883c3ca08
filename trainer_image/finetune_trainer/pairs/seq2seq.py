"""Text-to-text tasks on models with an encoder and a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.modelling.tokenizer import encoding_explained, load_auto_tokenizer
from finetune_trainer.pairs.languages import code_for, codes_of
from finetune_trainer.pairs.rows import Pair
from finetune_trainer.pairs.task import PairTask
from finetune_trainer.prepare.arrays import TOKENS, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example, RowSchema, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIXED_TYPES = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "byt5")
"""Model types that were pretrained with the task before the text."""

_KEPT_SETTINGS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
"""Settings of generation_config.json without which a model may generate tokens that it was never trained on."""


def load_pair_tokenizer(
    directory: Path, spec: FineTuneJobSpec, languages: tuple[str | None, str | None] | None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, set to the languages of the job if it has languages.

    Raises:
        StageFailure: BadConfiguration when the tokenizer cannot be loaded or does not know a language.
    """
    uri = spec.model.uri
    tokenizer = load_auto_tokenizer(directory, uri)
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):
        return tokenizer
    codes = codes_of(tokenizer)
    source, target = languages or (None, None)
    code = code_for(source, "task.sourceLanguage", codes, uri)
    return load_auto_tokenizer(
        directory, uri, src_lang=code, tgt_lang=code_for(target, "task.targetLanguage", codes, uri)
    )


class Seq2SeqPairsPreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`.

    The columns ``input_ids`` and ``labels`` are the tokens of the source and of the target, each with the special
    tokens of the tokenizer. A source of more than ``max_length`` tokens is truncated, and a target of so many is an
    invalid row, because a truncated one would teach the model to stop at arbitrary positions.
    """

    labels: tuple[str, ...] = ()
    rows = ""

    def __init__(
        self,
        task: PairTask,
        spec: FineTuneJobSpec,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        config: Mapping[str, Any],
    ) -> None:
        self._task = task
        self._spec = spec
        self._tokenizer: Any = tokenizer
        self._max_length = max_length
        self.prefix = task.prefix(spec) if config.get("model_type") in PREFIXED_TYPES else ""
        self.prefix += self._target_mark()
        self._check = task.check()
        self.answers = AnswerTokens()
        if tokenizer.eos_token_id is None:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"The tokenizer of {spec.model.uri} has no end-of-sequence token, so no answer would end: add "
                "eos_token to tokenizer_config.json",
            )

    @property
    def fields(self) -> list[pa.Field]:
        return [
            pa.field("input_ids", TOKENS),
            pa.field("labels", TOKENS),
            pa.field("reference", pa.string()),
            pa.field("prompt", pa.string()),
        ]

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = self._task.rows(self._spec, files)
        check_headers(files, schema)
        return schema

    def encode(self, examples: Sequence[Example]) -> Encoded:
        pairs = [example for example in examples if isinstance(example, Pair)]
        with encoding_explained():
            whole, inputs = self._inputs([pair.source for pair in pairs])
            targets = [self._ended(ids) for ids in self._tokenizer(text_target=[p.target for p in pairs])["input_ids"]]
        problems = {
            index: BadRow(
                f"the {self._task.titles.target.lower()} has {len(target)} tokens, more than the sequence length of "
                f"{self._max_length}; shorten it or raise training.maxSequenceLength"
            )
            for index, target in enumerate(targets)
            if len(target) > self._max_length
        }
        valid = [index for index in range(len(pairs)) if index not in problems]
        self.answers.ends[self._tokenizer.eos_token_id] += len(valid)
        columns = {
            "input_ids": token_lists([inputs[index] for index in valid]),
            "labels": token_lists([targets[index] for index in valid]),
            "reference": texts([pairs[index].target for index in valid]),
            "prompt": texts([pairs[index].source for index in valid]),
        }
        truncated = np.array([whole[index] > self._max_length for index in valid], np.bool_)
        return Encoded(columns, truncated, problems, tokens=("input_ids", "labels"))

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""

    def notes(self, label_counts: Mapping[str, int]) -> Sequence[str]:
        return self._check.notes()

    def finish(self, batch: pa.RecordBatch, label_counts: Counter[str]) -> pa.RecordBatch:
        self._check.see(batch)
        return batch

    def _inputs(self, sources: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The number of tokens of each source, and its tokens after truncation."""
        marked = [self.prefix + source for source in sources]
        whole = [len(ids) for ids in self._tokenizer(marked)["input_ids"]]
        return whole, self._tokenizer(marked, truncation=True, max_length=self._max_length)["input_ids"]

    def _ended(self, target: list[int]) -> list[int]:
        """``target`` with the end-of-sequence token, which generic tokenizers do not append."""
        end = self._tokenizer.eos_token_id
        return target if end in target[-2:] else [*target, end]

    def _target_mark(self) -> str:
        """What a Marian model with several targets sees before the source."""
        codes = codes_of(self._tokenizer)
        if not codes or hasattr(self._tokenizer, "set_src_lang_special_tokens"):
            return ""
        languages = self._task.languages(self._spec) or (None, None)
        return f">>{code_for(languages[1], 'task.targetLanguage', codes, self._spec.model.uri)}<< "


def generation_settings(
    tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of generation that a model needs, besides the length of answers and their end.

    Args:
        tokenizer: The tokenizer, set to the languages of the job.
        config: The model's ``config.json``.
        generation: The model's ``generation_config.json``; may be empty.
    """
    own = {**config, **generation}
    settings = {name: own[name] for name in _KEPT_SETTINGS if own.get(name) is not None}
    settings["decoder_start_token_id"] = own.get("decoder_start_token_id", own.get("bos_token_id"))
    language = getattr(tokenizer, "tgt_lang", None) if codes_of(tokenizer) else None
    if language is None:
        return settings
    marked = getattr(tokenizer, "lang_code_to_token", {})
    code = tokenizer.convert_tokens_to_ids(marked.get(language, language) if isinstance(marked, dict) else language)
    # The first MBART has the language at the end of the target, from where its shift moves it to the start.
    first = "decoder_start_token_id" if type(tokenizer).__name__ == "MBartTokenizer" else "forced_bos_token_id"
    return settings | {first: code}
