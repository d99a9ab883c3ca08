"""Text-to-text tasks on models with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.modelling.tokenizer import encoding_explained, load_auto_tokenizer
from finetune_trainer.pairs.languages import code_for, codes_of
from finetune_trainer.prepare.arrays import TOKENS, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
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


class Seq2SeqPairEncoder:
    """Implements `finetune_trainer.pairs.encoder.PairEncoder`.

    The columns ``input_ids`` and ``labels`` are the tokens of the source and of the target, each with the special
    tokens of the tokenizer. A source of more than ``max_length`` tokens is truncated, and a target of so many is an
    invalid row, because a truncated one would teach the model to stop at arbitrary positions.
    """

    def __init__(
        self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, prefix: str, target: str
    ) -> None:
        """
        Args:
            spec: The spec of the job.
            tokenizer: The tokenizer of the base model.
            max_length: Maximum number of tokens of a source, and of a target.
            prefix: What the model sees before each source; may be empty.
            target: What a target is called in messages, such as ``summary``.

        Raises:
            StageFailure: BadConfiguration when no answer of the model would end.
        """
        self._tokenizer: Any = tokenizer
        self._max_length = max_length
        self._target = target
        self.prefix = self.before = prefix
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

    def shown(self, sources: Sequence[str]) -> list[str]:
        return list(sources)

    def fit(self, sources: Sequence[str]) -> list[bool]:
        with encoding_explained():
            return [len(ids) <= self._max_length for ids in self._ids(self._marked(sources))]

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        with encoding_explained():
            marked = self._marked(sources)
            inputs = self._ids(marked)
            longer = [index for index, ids in enumerate(inputs) if len(ids) > self._max_length]
            # The tokenizer knows which special tokens a truncated text keeps.
            shorter = self._ids([marked[index] for index in longer], truncation=True, max_length=self._max_length)
            for index, ids in zip(longer, shorter, strict=True):
                inputs[index] = ids
            labels = [self._ended(ids) for ids in self._ids(targets, "text_target")]
        problems = {
            index: BadRow(
                f"the {self._target} has {len(ids)} tokens, more than the sequence length of {self._max_length}; "
                "shorten it, or raise training.maxSequenceLength if the model supports more"
            )
            for index, ids in enumerate(labels)
            if len(ids) > self._max_length
        }
        valid = [index for index in range(len(sources)) if index not in problems]
        self.answers.ends[self._tokenizer.eos_token_id] += len(valid)
        columns = {
            "input_ids": token_lists([inputs[index] for index in valid]),
            "labels": token_lists([labels[index] for index in valid]),
            "reference": texts([targets[index] for index in valid]),
            "prompt": texts([sources[index] for index in valid]),
        }
        truncated = np.isin(valid, longer)
        return Encoded(columns, truncated, problems, tokens=("input_ids", "labels"))

    def _marked(self, sources: Sequence[str]) -> list[str]:
        return [self.prefix + source for source in sources]

    def _ids(self, listed: Sequence[str], kind: str = "text", **settings: Any) -> list[list[int]]:
        """The token ids of texts, or of targets if ``kind`` is ``text_target``."""
        if not listed:
            return []  # The call of a fast tokenizer fails.
        ids: list[list[int]] = self._tokenizer(**{kind: list(listed)}, **settings)["input_ids"]
        return ids

    def _ended(self, target: list[int]) -> list[int]:
        """``target`` with the end-of-sequence token, which generic tokenizers do not append."""
        end = self._tokenizer.eos_token_id
        return target if end in target[-2:] else [*target, end]


def prefix_for(spec: FineTuneJobSpec, config: Mapping[str, Any], prefix: str) -> str:
    """``prefix``, if the model was pretrained with the task before the text; otherwise nothing.

    Args:
        spec: The spec of the job.
        config: The model's ``config.json``.
        prefix: What models of T5's family see before the text.

    Raises:
        StageFailure: BadConfiguration when task.instruction is set for a model that does not read it.
    """
    if config.get("model_type") in PREFIXED_TYPES:
        return prefix
    if spec.task.instruction:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"task.instruction has no effect on {spec.model.uri}: a model of type {config.get('model_type')} reads the "
            "text alone; remove it",
        )
    return ""


def target_mark(
    spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerBase, languages: tuple[str | None, str | None] | None
) -> str:
    """What a Marian model with several targets sees before the source."""
    codes = codes_of(tokenizer)
    if not codes or hasattr(tokenizer, "set_src_lang_special_tokens"):
        return ""
    _, target = languages or (None, None)
    return f">>{code_for(target, 'task.targetLanguage', codes, spec.model.uri)}<< "


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
