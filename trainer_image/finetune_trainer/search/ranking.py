"""The mean loss of the tokens of each label behind prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.prompts import CausalPrompts, Prompts, Seq2SeqPrompts
from finetune_trainer.evaluate.token_scores import token_scores
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.search.asked import OnExamples
from finetune_trainer.search.reusing import Reuse, reuse_of

Endings = Sequence[Sequence[int]]
"""The tokens of each label behind a prompt."""


class Ranker:
    """Ranks labels with one model.

    What the labels of a row, and the rows of a prompt, have in common is computed once, where the model allows it.
    """

    def __init__(self, inputs: EvaluationInputs, model: Any, *, seq2seq: bool) -> None:
        self._inputs = inputs
        self._model = model
        self._seq2seq = seq2seq
        self._reuse: Reuse | None = None
        self._decided = False

    def losses(self, prompts: TokenRows, endings: Endings, on_examples: OnExamples) -> NDArray[Any]:
        """The mean loss of the tokens of each ending behind each prompt, in nats, of shape (prompts, endings).

        Raises:
            StageFailure: BadConfiguration (a token that the model does not have), Diverged (a loss that is not finite),
                OutOfMemory.
        """
        if not self._decided:
            self._decided = True
            first = prompts.take(np.zeros(1, np.int64))
            exact = self.plain(first, endings, on_examples)
            self._reuse = reuse_of(self._inputs, self._model, first, endings, exact, seq2seq=self._seq2seq)
        if self._reuse is None:
            return self.plain(prompts, endings, on_examples)
        return self._reuse.losses(prompts, endings, on_examples)

    def plain(self, prompts: TokenRows, endings: Endings, on_examples: OnExamples) -> NDArray[Any]:
        """As `losses`, with each prompt in front of each ending, as a row of its own."""
        rows = (_targets if self._seq2seq else _continued)(prompts, endings)
        rows.check(self._model)
        scores = token_scores(self._inputs, rows, "baseline", self._model, lambda _: on_examples(0))
        return np.array([float(losses.mean()) for losses in scores.losses]).reshape(-1, len(endings))


def _continued(prompts: TokenRows, endings: Endings) -> Prompts:
    """For decoders: each prompt with each ending, whose tokens are predicted."""
    tokens, labels, lengths = [], [], []
    for row in range(len(prompts)):
        prompt = prompts[row]
        for ending in endings:
            tokens.append(np.concatenate([prompt, np.asarray(ending, np.int32)]))
            labels.append(np.concatenate([np.full(len(prompt), IGNORED_LABEL, np.int32), ending]).astype(np.int32))
            lengths.append(len(prompt))
    return CausalPrompts(_rows(tokens), _rows(labels), np.asarray(lengths, np.int64), [""] * len(tokens))


def _targets(prompts: TokenRows, endings: Endings) -> Prompts:
    """For models with an encoder and a decoder: each ending as the target of each prompt."""
    listed = [np.asarray(ending, np.int32) for ending in endings]
    sources = prompts.take(np.repeat(np.arange(len(prompts)), len(listed)))
    return Seq2SeqPrompts(sources, _rows(listed * len(prompts)), [""] * (len(listed) * len(prompts)))


def _rows(listed: Sequence[NDArray[np.int32]]) -> TokenRows:
    ends: Ints = np.cumsum([len(one) for one in listed])
    return TokenRows(np.concatenate(listed), np.concatenate([[0], ends]))
