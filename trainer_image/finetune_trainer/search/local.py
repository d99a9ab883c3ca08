"""A model on this machine that answers prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec.outcome import GenerationSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.prompts import CausalPrompts, Seq2SeqPrompts
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.quantizing import stored_as
from finetune_trainer.modelling.tokenizer import plain_backend, plain_decode
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.search.asked import Cost, Inputs, OnExamples, Spent
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.search.ranking import Ranker
from finetune_trainer.search.rendering import CausalRenderer, Fitting, Renderer, Seq2SeqRenderer
from finetune_trainer.search.templates import until_empty_line

_ROWS_AT_ONCE = 256
_WRITING = GenerationSpec(max_new_tokens=96, samples=2, temperature=0.9)
"""Settings for drawn answers; with one sample they would be greedy."""


class LocalModel:
    """Implements `finetune_trainer.search.asked.Asked`.

    Labels are ranked by the mean log-likelihood of the tokens of their text behind the prompt.
    """

    def __init__(self, inputs: EvaluationInputs, form: AnswerForm | None, tokenizer: Any) -> None:
        """
        Args:
            inputs: Inputs of the evaluation.
            form: How answers are generated, for a task whose answers are texts.
            tokenizer: The tokenizer of the prepared data.
        """
        self._inputs = inputs
        self._form = form
        self._tokenizer = tokenizer
        self._seq2seq = inputs.data.family is ModelFamily.SEQ2SEQ
        self._renderer: Renderer = (
            Seq2SeqRenderer(tokenizer, inputs.spec) if self._seq2seq else CausalRenderer(tokenizer, inputs.data)
        )
        self._backend = plain_backend(tokenizer)
        self._ends_at_empty_line = until_empty_line(tokenizer)
        self._model: Any = inputs.load(inputs.base).complete()
        self._ranker = Ranker(inputs, self._model, seq2seq=self._seq2seq)

    @property
    def stored_as(self) -> dict[str, Any]:
        stored = stored_as(self._model)
        return {} if stored is None else {"quantization": stored}

    @property
    def spent(self) -> Spent:
        return Spent()

    def most(self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str]) -> Cost:
        if labels:
            endings, _ = self._endings(prompt, inputs[0], labels)
            written = sum(map(len, endings))
        else:
            endings, written = [], self._new_tokens
        _, lengths, shortened = self._fitting(endings).fitted(prompt, inputs)
        return Cost(int(lengths.sum()) + written * len(inputs), shortened)

    def ranked(
        self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str], on_examples: OnExamples
    ) -> tuple[NDArray[Any], Cost]:
        endings, earlier = self._endings(prompt, inputs[0], labels)
        fitting = self._fitting(endings)
        found, tokens, shortened = [], 0, 0
        for first in range(0, len(inputs), _ROWS_AT_ONCE):
            table, lengths, cut = fitting.fitted(prompt, inputs[first : first + _ROWS_AT_ONCE])
            prompts = TokenRows.of_column(table["input_ids"]).heads(lengths - earlier)
            found.append(self._ranker.losses(prompts, endings, on_examples))
            on_examples(len(lengths))
            tokens += int(lengths.sum()) + sum(map(len, endings)) * len(lengths)
            shortened += cut
        means = np.concatenate(found)
        likely = np.exp(means.min(axis=1, keepdims=True) - means)
        return likely / likely.sum(axis=1, keepdims=True), Cost(tokens, shortened)

    def answers(self, prompt: Prompt, inputs: Sequence[Inputs], on_examples: OnExamples) -> tuple[list[str], Cost]:
        assert self._form is not None
        table, lengths, shortened = self._fitting([]).fitted(prompt, inputs)
        prompts = self._form.prompts.of_table(table)
        prompts.check(self._model)
        settings = self._inputs.spec.evaluation.generation
        decode = self._form.decode(self._tokenizer)
        generator = Generator(self._inputs.data, settings, decode, self._inputs.hardware)
        found = generator.answers(self._model, prompts, on_examples)
        tokens = int(lengths.sum()) + self._tokens(found)
        return [self._read(answer) for answer in found], Cost(tokens, shortened)

    def written(
        self, prompt: Prompt, inputs: Sequence[Inputs], seed: int, on_examples: OnExamples
    ) -> tuple[list[str], Cost]:
        fitting = Fitting(self._renderer, self._backend, self._room(_WRITING.max_new_tokens))
        table, lengths, _ = fitting.fitted(prompt, inputs)
        kind = Seq2SeqPrompts if self._seq2seq else CausalPrompts
        generator = Generator(self._inputs.data, _WRITING, plain_decode(self._tokenizer), self._inputs.hardware)
        seeds = (self._inputs.spec.training.seed, seed)
        found = generator.answers(self._model, kind.of_table(table), on_examples, seeds)
        return [self._read(answer) for answer in found], Cost(int(lengths.sum()) + self._tokens(found))

    def _endings(self, prompt: Prompt, inputs: Inputs, labels: Sequence[str]) -> tuple[list[list[int]], int]:
        """The tokens of each label behind a prompt, without the token that ends an answer.

        Where the first token of a label begins in the prompt of a decoder, those of all labels begin there.

        Returns:
            The tokens, and how many of them are in the prompt.

        Raises:
            StageFailure: BadConfiguration when the tokenizer makes two labels equal.
        """
        short = dict.fromkeys(inputs, "a")
        table = self._renderer.table(prompt, [short] * len(labels), labels)
        targets = table["labels"].to_pylist()
        if self._seq2seq:
            found, earlier = [_until(target, self._tokenizer.eos_token_id) for target in targets], 0
        else:
            lengths = self._renderer.lengths(table)
            begin = int(lengths.min())
            found = []
            for tokens, learned in zip(table["input_ids"].to_pylist(), targets, strict=True):
                end = max(index for index, label in enumerate(learned) if label != IGNORED_LABEL)
                found.append(tokens[begin:end])
            neutral = int(self._renderer.lengths(self._renderer.table(prompt, [short], ["Answer"]))[0])
            earlier = neutral - begin
        self._check_different(labels, found)
        return found, earlier

    def _check_different(self, labels: Sequence[str], endings: Sequence[Sequence[int]]) -> None:
        known: dict[tuple[int, ...], str] = {}
        for label, ending in zip(labels, endings, strict=True):
            other = known.setdefault(tuple(ending), label)
            if other != label or not ending:
                what = f"the same tokens as the label '{other[:80]}'" if ending else "no tokens"
                raise StageFailure(
                    Reason.BAD_CONFIGURATION,
                    f"The label '{label[:80]}' has {what} in the vocabulary of {self._inputs.spec.model.uri}, which "
                    "cannot rank it: rename the label in the data, or choose another model",
                )

    def _fitting(self, endings: Sequence[Sequence[int]]) -> Fitting:
        """What makes room for the answer: one of ``endings``, or a generated one."""
        answer = max(map(len, endings)) + 1 if endings else self._new_tokens
        return Fitting(self._renderer, self._backend, self._room(answer, whole=bool(endings)))

    def _room(self, answer: int, *, whole: bool = False) -> int | None:
        """Most tokens of a prompt with an answer of so many tokens, for which a generated one may have less room."""
        limit = self._inputs.spec.training.max_sequence_length or self._inputs.data.positions
        if limit is None or self._seq2seq:
            return limit
        return limit - (answer if whole else min(answer, limit // 2))

    @property
    def _new_tokens(self) -> int:
        return self._inputs.spec.evaluation.generation.max_new_tokens

    def _tokens(self, texts: Sequence[str]) -> int:
        return sum(len(one.ids) for one in self._backend.encode_batch(list(texts), add_special_tokens=False))

    def _read(self, answer: str) -> str:
        return answer.strip().partition("\n\n")[0] if self._ends_at_empty_line else answer


def _until(tokens: list[int], end: int) -> list[int]:
    """``tokens`` before ``end``."""
    return tokens[: tokens.index(end)] if end in tokens else tokens
