"""Prompts as tokens of a model on this machine, shortened to the room that it has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.tokenizer import fix_date
from finetune_trainer.pairs.seq2seq import Seq2SeqPairEncoder
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepared import DataReport
from finetune_trainer.search.asked import DoesNotFit, Inputs
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser

PLACEHOLDER = "Answer"
"""Stands for the answer, so that the tokens of a prompt do not depend on it."""

_SHORTEST = "a"
"""A text that is cut to the shortest."""
_CUTS = 8
"""Attempts to shorten a text, whose tokens may be others when its end is missing."""


class Renderer(Protocol):
    """Tokenises prompts and answers for the models of a family."""

    def table(self, prompt: Prompt, inputs: Sequence[Inputs], answers: Sequence[str]) -> pa.Table:
        """The columns that the `Prompts` of the family read, but without texts of rows.

        Raises:
            StageFailure: BadConfiguration when the chat template rejects the prompt.
        """

    def lengths(self, table: pa.Table) -> Ints:
        """Tokens of each prompt."""


class CausalRenderer:
    """For decoders: a conversation."""

    def __init__(self, tokenizer: Any, data: DataReport) -> None:
        fix_date(tokenizer, data.template_date)
        self._tokeniser = ChatTokeniser(tokenizer, sys.maxsize)

    def table(self, prompt: Prompt, inputs: Sequence[Inputs], answers: Sequence[str]) -> pa.Table:
        return _table(
            self._tokeniser.encode([_conversation(prompt, *row) for row in zip(inputs, answers, strict=True)])
        )

    def lengths(self, table: pa.Table) -> Ints:
        return np.asarray(table["prompt_length"].to_numpy(), np.int64)


class Seq2SeqRenderer:
    """For models with an encoder and a decoder: one text."""

    def __init__(self, tokenizer: Any, spec: FineTuneJobSpec) -> None:
        self._encoder = Seq2SeqPairEncoder(spec, tokenizer, sys.maxsize, prefix="", target="answer")

    def table(self, prompt: Prompt, inputs: Sequence[Inputs], answers: Sequence[str]) -> pa.Table:
        return _table(self._encoder.encode([joined(prompt, one) for one in inputs], answers))

    def lengths(self, table: pa.Table) -> Ints:
        return np.asarray(table["input_ids"].combine_chunks().value_lengths(), np.int64)


def joined(prompt: Prompt, inputs: Inputs) -> str:
    """The whole prompt as one text."""
    return "\n\n".join(message["content"] for message in prompt.messages(inputs))


def _conversation(prompt: Prompt, inputs: Inputs, answer: str) -> Conversation:
    messages = prompt.messages(inputs)
    return Conversation([*messages, {"role": ASSISTANT, "content": answer}], learned=(*[False] * len(messages), True))


def _table(encoded: Encoded) -> pa.Table:
    for problem in encoded.problems.values():
        raise StageFailure(Reason.BAD_CONFIGURATION, f"A prompt cannot be rendered: {problem}")
    return pa.table(dict(encoded.columns))


class Fitting:
    """Shortens the texts of rows until their prompts fit."""

    def __init__(self, renderer: Renderer, backend: Any, room: int | None) -> None:
        """
        Args:
            renderer: Tokenises prompts.
            backend: The `tokenizers.Tokenizer` of the model, which neither pads nor truncates.
            room: Most tokens of a prompt; None for any number.
        """
        self._renderer = renderer
        self._backend = backend
        self._room = room

    def fitted(self, prompt: Prompt, inputs: Sequence[Inputs]) -> tuple[pa.Table, Ints, int]:
        """The columns of prompts with placeholders for the answers, the tokens of each prompt, and how many rows were
        shortened.

        The longest text of a row loses its end.

        Raises:
            DoesNotFit: There is no room even without the text of a row.
        """
        table, lengths = self._table(prompt, inputs)
        if self._room is None or not (lengths > self._room).any():
            return table, lengths, 0
        self._check(prompt, inputs[0])
        longer = np.flatnonzero(lengths > self._room).tolist()
        shorter = list(inputs)
        for index in longer:
            shorter[index] = self._shortened(prompt, inputs[index], int(lengths[index]))
        return *self._table(prompt, shorter), len(longer)

    def _table(self, prompt: Prompt, inputs: Sequence[Inputs]) -> tuple[pa.Table, Ints]:
        table = self._renderer.table(prompt, inputs, [PLACEHOLDER] * len(inputs))
        return table, self._renderer.lengths(table)

    def _length(self, prompt: Prompt, inputs: Inputs) -> int:
        return int(self._table(prompt, [inputs])[1][0])

    def _check(self, prompt: Prompt, inputs: Inputs) -> None:
        least = self._length(prompt, dict.fromkeys(inputs, _SHORTEST))
        assert self._room is not None
        if least > self._room:
            raise DoesNotFit(least, self._room)

    def _shortened(self, prompt: Prompt, inputs: Inputs, length: int) -> Inputs:
        assert self._room is not None
        texts = dict(inputs)
        for _ in range(_CUTS):
            name = max(texts, key=lambda one: len(texts[one]))
            texts[name] = self._without_end(texts[name], length - self._room)
            length = self._length(prompt, texts)
            if length <= self._room:
                return texts
        return dict.fromkeys(inputs, _SHORTEST)

    def _without_end(self, text: str, tokens: int) -> str:
        """``text`` without its last ``tokens`` tokens, but not without any."""
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        kept = max(1, len(offsets) - tokens)
        return text[: offsets[kept - 1][1]].rstrip() or _SHORTEST
