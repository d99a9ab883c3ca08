"""The tokens that pad a batch and end an answer. They are determined here, once for all stages and the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
    tokenizer: PreTrainedTokenizerFast, learned: Sequence[int], config: Mapping[str, Any], generation: Mapping[str, Any]
) -> tuple[int, ...]:
    """Choose the token ids that end an answer, the most frequent of the data first.

    ``tokenizer`` gets it as its end-of-sequence token, so that other programs stop there too, unless the chat template
    inserts the end-of-sequence token elsewhere.

    Args:
        tokenizer: The tokenizer of the base model.
        learned: Token ids that end the answers in the data, the most frequent first; empty for a task that generates
            no text.
        config: The model's ``config.json``.
        generation: The model's ``generation_config.json``; may be empty.
    """
    if not learned:
        return ()
    of_model = generation.get("eos_token_id", config.get("eos_token_id"))
    known = of_model if isinstance(of_model, list) else [of_model]
    ends = [*learned, *known, tokenizer.eos_token_id]
    if tokenizer.eos_token_id != learned[0] and "eos_token" not in str(tokenizer.chat_template):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(learned[0])
    return tuple(dict.fromkeys(token for token in ends if _is_token(token)))


def _is_token(value: object) -> TypeGuard[int]:
    """Whether a value is a token id; configurations may contain anything."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
