"""The tokens that pad a batch and end an answer. They are determined here, once for all stages and the artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class AnswerTokens:
    """Tokens of the learned answers or documents by id, with their number; empty for a task that learns no text."""

    ends: Counter[int] = field(default_factory=Counter)
    """The tokens that end an answer."""
    inside: Counter[int] = field(default_factory=Counter)
    """The special tokens before the end of an answer, such as those around a thinking block."""
    start: tuple[int, ...] = ()
    """The tokens before the text of each document."""

    @property
    def learned_ends(self) -> list[int]:
        """The tokens that end an answer, the most frequent first.

        A token that also ends parts of most answers, such as their reasoning, ends no answer if another token does.
        """
        frequent = [token for token, _ in self.ends.most_common()]
        return [token for token in frequent if self.inside[token] < self.ends[token]] or frequent

    def often_inside(self, token: int) -> bool:
        """Whether so many answers contain a token that it cannot be the end of an answer."""
        return self.inside[token] > self.ends.total() // 100


def choose_padding(tokenizer: PreTrainedTokenizerFast, vocabulary: int | None) -> int:
    """Choose the token id for padding, and make it the padding token of ``tokenizer``.

    Padding is masked, so that any token can be used for which the model has an embedding.

    Args:
        tokenizer: The tokenizer of the base model.
        vocabulary: Number of embeddings of the model; None if its configuration does not say.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    chosen: int = next(
        token for token in candidates if token is not None and (token == 0 or vocabulary is None or token < vocabulary)
    )
    if tokenizer.pad_token_id != chosen:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)
    return chosen


def choose_ends(
    tokenizer: PreTrainedTokenizerFast, answers: AnswerTokens, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> tuple[int, ...]:
    """Choose the token ids that end an answer, the most frequent of the data first.

    ``tokenizer`` gets it as its end-of-sequence token, so that other programs stop there too, unless the chat template
    inserts the end-of-sequence token elsewhere.

    Args:
        tokenizer: The tokenizer of the base model.
        answers: The tokens of the answers in the data. An end token of the model that many contain is not chosen.
        config: The model's ``config.json``.
        generation: The model's ``generation_config.json``; may be empty.
    """
    learned = answers.learned_ends
    if not learned:
        return ()
    of_model = generation.get("eos_token_id", config.get("eos_token_id"))
    known = of_model if isinstance(of_model, list) else [of_model]
    others = [
        token for token in (*known, tokenizer.eos_token_id) if _is_token(token) and not answers.often_inside(token)
    ]
    if tokenizer.eos_token_id != learned[0] and "eos_token" not in str(tokenizer.chat_template):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(learned[0])
    return tuple(dict.fromkeys([*learned, *others]))


def end_notes(tokenizer: PreTrainedTokenizerFast, ends: Sequence[int], answers: AnswerTokens) -> list[str]:
    """A sentence for each of the chosen ``ends`` that answers contain: there a generated answer ends early."""
    return [
        f"{answers.inside[token]:,} of {answers.ends.total():,} answers contain the end token "
        f"{str(tokenizer.convert_ids_to_tokens(token))[:30]!r}; generated answers end there; remove it from the rows"
        for token in ends
        if answers.inside[token]
    ]


def _is_token(value: object) -> TypeGuard[int]:
    """Whether a value is a token id; configurations may contain anything."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
