"""Tokens of code, from which it comes back byte for byte.

The code that follows a prompt is tokenised apart from it. Otherwise its first blanks could become a part of the last
token of the prompt, as with the tokenizers of GPT-2's kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.modelling.tokenizer import Decode

Encode = Callable[[Sequence[str]], list[list[int]]]
"""The token ids of texts, without special tokens around them."""

_SAMPLE = "    return x\n\tif  y:\n  z  \n"
_ANCHOR = "\n"


@dataclass(frozen=True)
class CodeTokens:
    """Tokenises code that follows other text."""

    encode: Encode
    decode: Decode


def code_tokens(encode: Encode, decode: Decode, model_uri: str) -> CodeTokens:
    """The way of a tokenizer to keep white space.

    A byte-level tokenizer keeps it. One of SentencePiece marks the start of every text, so that code is tokenised, and
    read again, after a line break.

    Raises:
        StageFailure: BadConfiguration when it does not keep white space.
    """
    plain, anchored = CodeTokens(encode, decode), _after_line_break(encode, decode)
    for tokens in (plain, anchored):
        if _keeps(tokens, encode, decode):
            return tokens
    found = plain.decode(plain.encode([_SAMPLE]))[0]
    first = (found.splitlines() or [""])[0]
    raise StageFailure(
        Reason.BAD_CONFIGURATION,
        f"The tokenizer of {model_uri} does not keep white space, which is content in code: "
        f"{_SAMPLE.splitlines()[0]!r} comes back as {first[:60]!r}; choose a model with a byte-level "
        "tokenizer, as those for code have",
    )


def backend_encode(backend: Any) -> Encode:
    """Encodes with ``backend``, a `tokenizers.Tokenizer`."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(found.ids) for found in backend.encode_batch(list(texts), add_special_tokens=False)]

    return encode


def _after_line_break(encode: Encode, decode: Decode) -> CodeTokens:
    anchor = encode([_ANCHOR])[0]

    def encode_after(texts: Sequence[str]) -> list[list[int]]:
        found = encode([_ANCHOR + text for text in texts])
        return [ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids for ids in found]

    def decode_after(listed: list[list[int]]) -> list[str]:
        return [text.removeprefix(_ANCHOR) for text in decode([[*anchor, *ids] for ids in listed])]

    return CodeTokens(encode_after, decode_after)


def _keeps(tokens: CodeTokens, encode: Encode, decode: Decode) -> bool:
    """Whether code comes back, alone and after a prompt."""
    ids = tokens.encode([_SAMPLE])[0]
    prompt = encode(["x:\n"])[0]
    return tokens.decode([ids]) == [_SAMPLE] and decode([[*prompt, *ids]]) == ["x:\n" + _SAMPLE]
