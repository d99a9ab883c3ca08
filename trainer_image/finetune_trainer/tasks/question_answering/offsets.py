"""Which characters of a context its tokens stand for, corrected and verified.

The offsets of a tokenizer that normalises text are those of the original text, except at its edges: they leave out
combining marks that it strips or composes, and include white space that it makes part of a token.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.prepare.problems import BadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Offsets = list[tuple[int, int]]


class TokenSpans:
    """Finds the characters of tokens, with the backend of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = tokenizer.backend_tokenizer
        self._backend = backend
        self._normalizer = backend.normalizer
        self._prefix: str = getattr(backend.model, "continuing_subword_prefix", None) or ""
        self._unknown = tokenizer.unk_token_id
        self._texts: dict[int, str | None] = {}

    def of(self, context: str, tokens: Sequence[int], offsets: Offsets) -> Offsets:
        """The start and the exclusive end of each token, without white space around it; equal for an empty token.

        Args:
            context: The text.
            tokens: Its token ids.
            offsets: The offsets of the tokens as the tokenizer gives them, in characters.

        Raises:
            BadRow: An offset is that of other text.
        """
        corrected = _extended(context, [_trimmed(context, *offset) for offset in offsets])
        if self._rewrites(context):
            for token, (start, end) in zip(tokens, corrected, strict=True):
                self._verify(token, context[start:end])
        return corrected

    def _rewrites(self, context: str) -> bool:
        """Whether normalisation changes more than the case, so that offsets of text and tokens differ."""
        if self._normalizer is None:
            return False
        normalised: str = self._normalizer.normalize_str(context)
        return normalised != context and normalised != context.lower()

    def _verify(self, token: int, characters: str) -> None:
        text = self._text(token)
        if text is None or text in _squeezed(self._normalizer.normalize_str(characters)):
            return
        raise BadRow(
            f"the tokenizer says that its token {text[:20]!r} stands for {characters[:20]!r}, which is other text; "
            "write the context without rare characters, such as those of Unicode compatibility"
        )

    def _text(self, token: int) -> str | None:
        """The text of a token without white space; None if it is unknown, or only a part of a character."""
        if token not in self._texts:
            decoded = self._backend.decode([token], skip_special_tokens=False)
            text = _squeezed(decoded.removeprefix(self._prefix).replace("\u2581", ""))
            known = token != self._unknown and "\ufffd" not in text and not text.startswith("<0x")
            self._texts[token] = text if known else None
        return self._texts[token]


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


def _extended(context: str, offsets: Offsets) -> Offsets:
    """The offsets with the combining marks that follow a token and belong to no other."""
    if context.isascii():
        return offsets
    extended = []
    for index, (start, stop) in enumerate(offsets):
        end, limit = stop, offsets[index + 1][0] if index + 1 < len(offsets) else len(context)
        while start < end < limit and unicodedata.category(context[end]).startswith("M"):
            end += 1
        extended.append((start, end))
    return extended


def _squeezed(text: Any) -> str:
    return "".join(str(text).split()).lower()
